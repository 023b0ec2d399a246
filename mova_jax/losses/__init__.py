"""What the model is trained on: similarities of video and caption, and the terms made of them."""
