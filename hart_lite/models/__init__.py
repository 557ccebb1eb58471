"""Model families, the policy, generation and packing with shared prefixes."""
