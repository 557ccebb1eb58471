"""The stages of a recipe: RL, SFT, and everything around a step."""
