// Linux guests that lose a page while another guest of the pool does not.

#include <cstdint>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"
#include "vmm/console_report.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"

namespace quire {
namespace {

// How often a console is looked at, and a page poisoned that has no frame just then.
constexpr absl::Duration kPoll = absl::Milliseconds(200);

std::string Name(const testing::TestParamInfo<const char*>& series) {
  return "Linux" + absl::StrReplaceAll(series.param, {{".", "_"}});
}

class MachineCheckTest : public LinuxGuestTest, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    LinuxGuestTest::SetUp();
    if (!IsThere(GetParam())) {
      GTEST_SKIP() << "there is no " << GuestFile(GetParam(), "vmlinuz") << ": use `tools/dev test lab`";
    }
  }

  // Runs two guests. As soon as the first says which page it can do without, that page's frame fails.
  Outcome RunWithLoss() {
    const std::string socket = NewFile("socket");
    const std::string console = NewFile("console-0");
    absl::Notification ended;
    std::thread poisoner([&] {
      while (!poisoned_ && !ended.WaitForNotificationWithTimeout(kPoll)) Poison(socket, console);
    });
    const Outcome outcome = Run(GetParam(), "loss:64:30", /*guests=*/2, kWorkLimit,
                                {"--vcpus=2", "--memory=512M", "--pool=1G", "--control=" + socket});
    ended.Notify();
    poisoner.join();
    return outcome;
  }

  bool poisoned_ = false;  // by RunWithLoss

 private:
  void Poison(const std::string& socket, const std::string& console) {
    uint64_t page = 0;
    if (!absl::SimpleAtoi(ReportOf(Contents(console)).Get("page_to_lose"), &page)) return;
    poisoned_ = AskRun(socket, {.command = ControlRequest::Command::kPoison, .guest = "0", .gfn = page}).ok();
  }
};

// A process's page: the process ends, and its kernel goes on without the page.
TEST_P(MachineCheckTest, TheProcessThatUsedTheLostPageIsKilledAndNobodyElse) {
  const Outcome outcome = RunWithLoss();
  EXPECT_TRUE(poisoned_);
  ExpectGoodGuests(outcome);
  ASSERT_TRUE(outcome.report.is_object());
  const ConsoleReport said = ReportOf(outcome.consoles[0]);
  EXPECT_EQ(said.Get("killed_by"), "7") << outcome.consoles[0];
  EXPECT_EQ(said.Get("hardware_corrupted_kib"), "4") << "the kernel does not use the page any more";
  EXPECT_EQ(outcome.report["guests"][0]["machine_checks"], 1u);
  EXPECT_EQ(outcome.report["pool"]["poisoned_bytes"], 4096u);
  EXPECT_EQ(ReportOf(outcome.consoles[1]).Get("killed_by"), "0") << outcome.consoles[1];
  EXPECT_EQ(outcome.report["guests"][1]["machine_checks"], 0u);
  for (const auto& guest : outcome.report["guests"]) EXPECT_EQ(guest["ended"], "power off");
}

INSTANTIATE_TEST_SUITE_P(Kernels, MachineCheckTest, testing::Values("6.12"), Name);

// Debian's cloud kernel 6.1 is built without machine checks (CONFIG_X86_MCE).
class NoMachineCheckTest : public MachineCheckTest {};

TEST_P(NoMachineCheckTest, AGuestWhoseKernelCannotBeToldIsStoppedAndTheOtherIsNot) {
  const Outcome outcome = RunWithLoss();
  EXPECT_TRUE(poisoned_);
  EXPECT_EQ(outcome.status, 1);
  ASSERT_TRUE(outcome.report.is_object());
  const auto& guests = outcome.report["guests"];
  const std::string exit = guests[0]["exit"];
  EXPECT_TRUE(absl::StrContains(exit, "is lost: the memory that held it has failed, and its kernel has not enabled"))
      << exit;
  EXPECT_EQ(guests[0]["machine_checks"], 0u);
  EXPECT_EQ(guests[1]["exit"], "ok");
  EXPECT_EQ(guests[1]["ended"], "power off");
  const ConsoleReport other = ReportOf(outcome.consoles[1]);
  EXPECT_EQ(other.Get("killed_by"), "0") << outcome.consoles[1];
  EXPECT_EQ(other.Get("wrong"), "0");
  EXPECT_EQ(other.Get("result"), "ok");
}

INSTANTIATE_TEST_SUITE_P(Kernels, NoMachineCheckTest, testing::Values("6.1"), Name);

}  // namespace
}  // namespace quire
