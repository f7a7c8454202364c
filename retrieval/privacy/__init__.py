"""Personal data found in text and replaced by placeholders."""
