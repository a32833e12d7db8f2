"""SAs and SPD entries of the links' model as values of pyxfrm, and back."""
