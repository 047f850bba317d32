// What tests have in common that ask a run by its control socket: a run in a child process, until they end it.
#ifndef QUIRE_TESTS_RUN_CONTROLLED_RUN_TEST_H_
#define QUIRE_TESTS_RUN_CONTROLLED_RUN_TEST_H_

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/run/run_in_child.h"
#include "vmm/control/socket_place.h"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {

class ControlledRunTest : public ::testing::Test {
 protected:
  // Two software guests. What else they are is the test's to say, before it starts them.
  ControlledRunTest() {
    options_.accel = Accel::kSoft;
    options_.guests = 2;
    options_.duration = absl::Minutes(15);
    options_.control = directory_.socket();
  }
  void TearDown() override {
    if (run_ > 0) EndRun();
  }
  void StartRun() {
    run_ = fork();
    if (run_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const std::string stop = StopFile();
      RunInThisProcess(options_, [stop](const Snapshot&) { return access(stop.c_str(), F_OK) == 0; });
    }
    // Until it listens.
    while (!ConnectTo(*options_.control).ok()) absl::SleepFor(absl::Milliseconds(20));
  }
  // The status that waitpid gives.
  int EndRun() {
    close(creat(StopFile().c_str(), 0600));
    int status = 0;
    waitpid(std::exchange(run_, 0), &status, 0);
    unlink(StopFile().c_str());
    return status;
  }

  SocketDirectory directory_;
  RunOptions options_;

 private:
  std::string StopFile() const { return *options_.control + ".stop"; }

  pid_t run_ = 0;
};

}  // namespace quire

#endif  // QUIRE_TESTS_RUN_CONTROLLED_RUN_TEST_H_
