"""What every stage needs: errors for people, atomic files, hashes, progress, and how a program starts and ends."""
