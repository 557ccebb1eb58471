"""How much is computed at one time where no recipe says: each bounds the memory of a phase."""

ENCODE_TOKENS = 4096  # image tokens that one call of the vision tower takes
FEED_TOKENS = 4096  # tokens of prompts that one pass reads, unless a single run is longer
HEAD_TILE = 256  # sampled tokens whose vocabulary logits exist at one time: fewer would wait for the head's weights
SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, as vLLM 0.33 makes room for them
