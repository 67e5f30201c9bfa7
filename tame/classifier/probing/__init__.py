"""What a network says about itself: one recorded pass tells its layers, its tokens and the layers to read."""
