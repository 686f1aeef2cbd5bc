"""Why a classifier says what it says: attribution maps, their faithfulness, and images made to its taste."""
