"""The stages of a recipe: RL, SFT, distillation, and everything around a step."""
