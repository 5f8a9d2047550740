"""One file each verifier: verify(completion, reference) -> Verdict."""
