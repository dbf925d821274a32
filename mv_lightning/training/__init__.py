"""Lightning glue: it joins the data, model and metrics rooms and has no maths of its own."""
