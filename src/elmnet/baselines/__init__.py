"""Other recurrent networks in the same harness: the field's usual ones, with the contract of an ELM network."""
