"""How the toy base model is made."""
