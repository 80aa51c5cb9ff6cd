"""Methods: one configuration file and one modeling file each, and the blocks they share."""
