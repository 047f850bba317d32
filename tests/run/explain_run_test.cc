// A run is asked about its pages while it goes on.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/run/run_in_child.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class ExplainRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.accel = Accel::kSoft;
    options_.guests = 2;
    options_.memory = ByteCount::MiB(16);
    options_.pool = ByteCount::MiB(64);
    options_.huge = Huge::kNever;
    options_.workload = "random:common=1,written=0";
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
  int EndRun() {
    close(creat(StopFile().c_str(), 0600));
    int status = 0;
    waitpid(std::exchange(run_, 0), &status, 0);
    unlink(StopFile().c_str());
    return status;
  }
  std::string StopFile() const { return *options_.control + ".stop"; }
  nlohmann::json Explain(const std::string& guest, uint64_t gfn) {
    const absl::StatusOr<std::string> answer = AskRun(*options_.control, {.guest = guest, .gfn = gfn});
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? nlohmann::json::parse(*answer) : nlohmann::json();
  }

  SocketDirectory directory_;
  RunOptions options_;
  pid_t run_ = 0;
};

TEST_F(ExplainRunTest, APageThatBothGuestsHaveIsExplainedOnceItIsMerged) {
  StartRun();
  // All pages but the zero ones come to be shared.
  nlohmann::json page;
  for (uint64_t gfn = 0; page["state"] != "shared"; gfn = (gfn + 1) % 4096) page = Explain("guest-1", gfn);
  EXPECT_EQ(page["guest"], "guest-1");
  EXPECT_EQ(page["id"], 1);
  EXPECT_GE(page["sharers"], 1u);
  EXPECT_EQ(page["merge_refused"], "");
  EXPECT_EQ(page["huge_refused"], "whole blocks are off, or were not asked for");
  EXPECT_THAT(page["sentences"][2].get<std::string>(), HasSubstr("It is merged"));
  // By its number, too.
  EXPECT_EQ(Explain("1", page["gfn"])["guest"], "guest-1");
  const auto why = [&](const std::string& guest, uint64_t gfn) {
    return std::string(AskRun(*options_.control, {.guest = guest, .gfn = gfn}).status().message());
  };
  EXPECT_THAT(why("2", 0), HasSubstr("there is no guest 2: the run has guest-0 to guest-1"));
  EXPECT_THAT(why("0", 4096), HasSubstr("its memory ends at page 4096"));
  EXPECT_EQ(EndRun(), 0);
  EXPECT_NE(access(options_.control->c_str(), F_OK), 0) << "the socket is gone";
}

}  // namespace
}  // namespace quire
