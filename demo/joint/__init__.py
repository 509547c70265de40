"""Small transformers of the picture book, in the layouts of models that people use; trained by `demo.training`.

mmdit   joint attention to text and patches, as in Stable Diffusion 3
cross   separate attention to the text, zeros for padding, as in Anima
model   a transformer with the demo model's text encoder: built, loaded, saved
"""
