"""The head and what covers it: skin, hair, wrinkles, accessories, painted on an atlas."""
