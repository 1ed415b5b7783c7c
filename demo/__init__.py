"""The room of the web page. It holds no page yet: `mmlm chat RUN` talks in a terminal, over the same `mmlm.reply`."""

if __name__ != "mmlm.demo":
    raise ImportError("this folder is the package mmlm.demo; import it by that name")
