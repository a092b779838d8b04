"""Speed, memory and accuracy of the losses against their peers."""
