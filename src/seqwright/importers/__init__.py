"""Turn models of other programs into model folders of this project, without running any code that comes with them."""
