"""How a token is drawn: parameters, penalties, grammars."""
