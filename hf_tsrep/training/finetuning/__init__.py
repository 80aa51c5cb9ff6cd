"""Fine-tuning: a pretrained encoder with a head, its labelled data, its metrics, and which weights learn."""
