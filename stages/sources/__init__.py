"""Where inputs come from: folders of images, and lists with labels."""
