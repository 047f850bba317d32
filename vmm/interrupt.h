// Ctrl-C and SIGTERM end a run early but in order: the guests are stopped and the report is written.
#ifndef QUIRE_VMM_INTERRUPT_H_
#define QUIRE_VMM_INTERRUPT_H_

namespace quire {

// From now on the first SIGINT or SIGTERM is noted; one that comes a second or more later ends the process at once.
// (Wrappers such as timeout(1) send a signal twice in a row and mean it once.)
void CatchInterrupts();

// The signal that was noted; 0 if none was. Thread safe.
int CaughtInterrupt();

// Ends the process by the signal that was noted, so that a calling shell sees it; returns if none was.
void DieOfCaughtInterrupt();

}  // namespace quire

#endif  // QUIRE_VMM_INTERRUPT_H_
