"""What containers of video state about their own structure, by which truncation and damage are found."""
