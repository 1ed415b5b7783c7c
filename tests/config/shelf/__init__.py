"""Parts for the tests of the config room. Their modules fail when they are imported: a check only reads them."""
