"""What turns raw series into model inputs; every module here travels to the Hub beside the models."""
