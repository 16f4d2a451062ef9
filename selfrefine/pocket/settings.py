"""How the method is run on the pocket student.

The paper's rates (2e-5 and 1e-6, §3.2.1) are for billions of parameters: a student of one million would not move.
These were chosen on held-out questions of the train split, not on the test: see student/README.md.
"""

DEMONSTRATIONS, TEST_QUESTIONS = 400, 200
PHASE_1 = {"--learning-rate": 8e-4, "--epochs": 3, "--batch-size": 32}
PHASE_2 = {"--learning-rate": 5e-4, "--max-steps": 40, "--warmup-steps": 4, "--batch-size": 16}
ANSWER = {"--max-new-tokens": 64}
ONE_THREAD = "OMP_NUM_THREADS"  # set to 1: a second thread of a model this small waits more than it works
STUDENT = {"--student": "pocket", "--device": "cpu", "--dtype": "float32"}  # float32: alike on every machine
