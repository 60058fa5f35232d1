"""A campaign of bad and borderline inputs, through the command line."""
