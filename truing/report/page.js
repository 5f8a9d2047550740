"use strict";
const SVG = "http://www.w3.org/2000/svg";

function charts(stage) {
  return [...stage.querySelectorAll("svg[data-points]")];
}

function points(svg) {
  svg.points ??= JSON.parse(svg.dataset.points);
  return svg.points;
}

function nearest(values, wanted) {
  let best = 0;
  values.forEach((v, i) => { if (Math.abs(v - wanted) < Math.abs(values[best] - wanted)) best = i; });
  return best;
}

function mark(svg, index) {
  const [steps, texts, xs, ys] = points(svg);
  clear(svg);
  const group = document.createElementNS(SVG, "g");
  group.setAttribute("class", "hover");
  const line = document.createElementNS(SVG, "line");
  for (const [key, value] of Object.entries({ x1: xs[index], x2: xs[index], y1: 8, y2: 130, class: "cursor" })) {
    line.setAttribute(key, value);
  }
  group.append(line);
  if (ys[index] !== null) {
    const dot = document.createElementNS(SVG, "circle");
    for (const [key, value] of Object.entries({ cx: xs[index], cy: ys[index], r: 3.5, class: "mark" })) {
      dot.setAttribute(key, value);
    }
    group.append(dot);
  }
  svg.append(group);
  svg.parentElement.querySelector("output").textContent = `step ${steps[index]}: ${texts[index]}`;
}

function clear(svg) {
  svg.querySelector(".hover")?.remove();
  const output = svg.parentElement.querySelector("output");
  output.textContent = output.dataset.last;
}

for (const stage of document.querySelectorAll(".stage")) {
  for (const svg of charts(stage)) {
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      const step = points(svg)[0][nearest(points(svg)[2], x)];
      for (const other of charts(stage)) mark(other, nearest(points(other)[0], step));
    });
    svg.addEventListener("pointerleave", () => charts(stage).forEach(clear));
  }
  stage.querySelector(".smoothing")?.addEventListener("change", (event) => {
    stage.classList.toggle("unsmoothed", !event.target.checked);
  });
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}
