// A terminal that is drawn on as a whole, without a line of what stood there before being lost.
#ifndef QUIRE_VMM_TOP_FULL_SCREEN_H_
#define QUIRE_VMM_TOP_FULL_SCREEN_H_

#include <signal.h>
#include <termios.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace quire {

// While it lives the other screen of the terminal is shown, without a cursor, and keys come one by one, Ctrl-C as any
// other. Signals that would end or stop the process are held back meanwhile: the terminal is put back first, and what
// was held back then does what it does. Belongs to one thread, of a process that has no others.
class FullScreen {
 public:
  // Keys come from `in`; both are terminals, and stay the caller's. Error: FailedPrecondition, they are none.
  static absl::StatusOr<std::unique_ptr<FullScreen>> Open(int in, int out);
  ~FullScreen();
  FullScreen(const FullScreen&) = delete;
  FullScreen& operator=(const FullScreen&) = delete;

  // In place of all that was drawn before.
  void Draw(const std::vector<std::string>& lines);

  struct Event {
    enum class Kind : uint8_t {
      kNothing,  // in all that time
      kKey,
      kRedraw,  // the window has another size, or the process goes on after it was stopped
      kEnd,     // a signal that ends the process, once this is gone; or there is no terminal any more
    } kind = Kind::kNothing;
    char key = '\0';
  };
  Event Await(absl::Duration time);

 private:
  FullScreen(int in, int out, const termios& before, const sigset_t& signals_before, UniqueFd signals);
  void Enter();
  void Leave();
  Event TakeSignal();

  const int in_;
  const int out_;
  const termios before_;
  const sigset_t signals_before_;
  const UniqueFd signals_;
  int ended_by_ = 0;  // a signal that was taken
};

}  // namespace quire

#endif  // QUIRE_VMM_TOP_FULL_SCREEN_H_
