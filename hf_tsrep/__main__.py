"""`python -m hf_tsrep` is `hf-tsrep`; so is `accelerate launch -m hf_tsrep` and `torchrun -m hf_tsrep`."""

from .cli.main import main

if __name__ == "__main__":
    main()
