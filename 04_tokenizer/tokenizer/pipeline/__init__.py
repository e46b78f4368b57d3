"""The steps of a tokenizer before and after its model, as `tokenizer.json` names them."""
