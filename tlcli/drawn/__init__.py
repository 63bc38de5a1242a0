"""Images drawn by formula: classes of pictures in which there is nobody's photograph."""
