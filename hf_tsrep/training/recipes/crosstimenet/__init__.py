"""Published hyper-parameters of CrossTimeNet."""
