"""What files beside images say of them: classes, labels and captions."""
