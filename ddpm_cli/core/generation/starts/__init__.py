"""What sampling starts from, and is given: noise, images, another model's images."""
