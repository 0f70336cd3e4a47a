"""The stages that check prompts and images, and what they have in common."""
