// Boots a bare-metal kernel (workloads/payload/testing/multiboot.c), as those of kvm-unit-tests are.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"
#include "workloads/payload/testing/multiboot_kernel.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class BareMetalTest : public GuestTest {
 protected:
  // `words` are its command line's, the last of which says how it is to end.
  std::vector<std::string> KernelWords(const std::string& words, const std::vector<std::string>& more) {
    const std::string file = NewFile("kernel");
    const auto bytes = MultibootKernel();
    WriteFile(file, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    std::vector<std::string> all = {"run", "--accel=kvm", "--kernel=" + file, "--cmdline=" + words};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Outcome RunKernel(const std::string& words, const std::vector<std::string>& more = {"--memory=16M", "--pool=64M"}) {
    return RunToEnd(KernelWords(words, more), /*guests=*/1, kBootLimit);
  }
};

TEST_F(BareMetalTest, SaysWhatItHasAndEndsWithSuccess) {
  const Outcome outcome = RunKernel("one two exit=0");
  EXPECT_EQ(outcome.status, 0) << outcome.said;
  ASSERT_EQ(outcome.consoles[0],
            "quire: magic=ok memory_kib=16384\nquire: wrong=0\ncommand line: kernel one two exit=0\n")
      << outcome.said;
  const nlohmann::json guest = outcome.report["guests"][0];
  EXPECT_EQ(guest["ended"], "exit");
  EXPECT_EQ(guest["exit_status"], 0);
  EXPECT_EQ(guest["exit"], "ok");
  EXPECT_EQ(guest["console"]["memory_kib"], "16384");
  EXPECT_THAT(outcome.said, HasSubstr("guest-0 ended with status 0"));
}

TEST_F(BareMetalTest, AnotherStatusIsAFailure) {
  const Outcome outcome = RunKernel("exit=3");
  EXPECT_EQ(outcome.status, 1) << outcome.said;
  const nlohmann::json guest = outcome.report["guests"][0];
  EXPECT_EQ(guest["ended"], "exit");
  EXPECT_EQ(guest["exit_status"], 3);
  EXPECT_EQ(guest["exit"], "its kernel ended with status 3");
  EXPECT_THAT(outcome.said, HasSubstr("guest-0 ended with status 3"));
}

TEST_F(BareMetalTest, EndsByThePowerPortsToo) {
  const Outcome off = RunKernel("off");
  EXPECT_EQ(off.status, 0) << off.said;
  EXPECT_EQ(off.report["guests"][0]["ended"], "power off");
  EXPECT_FALSE(off.report["guests"][0].contains("exit_status"));
  const Outcome reset = RunKernel("reset");
  EXPECT_EQ(reset.status, 0) << reset.said;
  EXPECT_EQ(reset.report["guests"][0]["ended"], "reset");
}

TEST_F(BareMetalTest, FindsItsMemoryRightInLessThanItHas) {
  const Outcome outcome = RunKernel("exit=0", {"--memory=64M", "--pool=24M"});
  EXPECT_EQ(outcome.status, 0) << outcome.said;
  EXPECT_EQ(outcome.report["guests"][0]["console"]["wrong"], "0");
  EXPECT_GT(outcome.report["swap"]["pages_out"], 0u) << "there was no pressure, so this proves nothing";
}

TEST_F(BareMetalTest, LinesOfTwoGuestsAreShownWithTheirNames) {
  QuireProcess quire(KernelWords("exit=0", {"--guests=2", "--memory=16M", "--pool=64M", "--console=lines"}),
                     kBootLimit);
  EXPECT_EQ(quire.Wait(), 0) << quire.said();
  for (const char* guest : {"guest-0", "guest-1"}) {
    for (const char* line : {"quire: magic=ok memory_kib=16384", "quire: wrong=0", "command line: kernel exit=0"}) {
      EXPECT_THAT(quire.said(), HasSubstr(absl::StrCat("\n", guest, ": ", line, "\n")));
    }
  }
}

TEST_F(BareMetalTest, ADomainIsReportedOnAndStarted) {
  const std::string kernel = NewFile("kernel"), domain = NewFile("domain.xml"), log = NewFile("log");
  const auto bytes = MultibootKernel();
  WriteFile(kernel, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  WriteFile(domain, absl::StrCat("<domain type='kvm'>\n<name>bare</name>\n<memory unit='MiB'>16</memory>\n",
                                 "<os><type>hvm</type><kernel>", kernel, "</kernel><cmdline>exit=0</cmdline></os>\n",
                                 "<devices>\n<graphics type='vnc'/>\n<serial type='file'><source path='", log,
                                 "'/></serial></devices></domain>\n"));
  QuireProcess quire({"run", "--domain=" + domain, "--pool=64M"}, kBootLimit);
  EXPECT_EQ(quire.Wait(), 0) << quire.said();
  EXPECT_THAT(quire.said(), HasSubstr("Domain bare of " + domain + ": 16 MiB, 1 vCPU; 1 ignored, 0 refused."));
  EXPECT_THAT(quire.said(), HasSubstr("  ignored  line 6    /domain/devices/graphics: there is no display"));
  EXPECT_THAT(quire.said(), HasSubstr("bare ended with status 0"));
  EXPECT_EQ(Contents(log), "quire: magic=ok memory_kib=16384\nquire: wrong=0\ncommand line: kernel exit=0\n");
}

}  // namespace
}  // namespace quire
