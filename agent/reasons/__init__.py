"""The sentences that say why a post is shown, and the checks that every claim passes."""
