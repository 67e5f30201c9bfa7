"""Lightning callbacks: AD, IC, ROAD and explanation pictures in any Lightning run."""
