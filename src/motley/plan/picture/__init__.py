"""The plan as a page: `page` assembles it, `facts` says what is drawn, the other modules draw one picture each."""
