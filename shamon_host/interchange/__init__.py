"""Import and export of policies in other systems' forms; imports the domain only."""
