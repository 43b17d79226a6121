"""The models of latent diffusion, one file each: text encoder, UNet, autoencoder, and the tokenizer before them."""
