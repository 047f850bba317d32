// Domains of libvirt's run under KVM: a kernel of the project's (workloads/payload/testing/multiboot.c) is what they
// boot.
#include "vmm/libvirt/domain/domain_run.h"

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/run/controlled_run_test.h"
#include "tests/run/run_in_child.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/libvirt/domain/note.h"
#include "vmm/options.h"
#include "workloads/payload/testing/multiboot_kernel.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class DomainRunTest : public ControlledRunTest {
 protected:
  void SetUp() override {
    if (absl::StatusOr<KvmSystem> system = KvmSystem::Open(); !system.ok()) GTEST_SKIP() << system.status().message();
    const auto bytes = MultibootKernel();
    std::ofstream(kernel_).write(reinterpret_cast<const char*>(bytes.data()),
                                 static_cast<std::streamsize>(bytes.size()));
  }
  void TearDown() override {
    ControlledRunTest::TearDown();
    for (const std::string& file : {kernel_, log_}) unlink(file.c_str());
  }

  // The kernel ends as `how` says.
  std::string Domain(const std::string& how, const std::string& elements = "") const {
    return absl::StrCat(
        "<domain type='kvm'>\n  <name>bare.metal</name>\n  <memory unit='MiB'>16</memory>\n  ", elements,
        "\n  <os><type>hvm</type><kernel>", kernel_, "</kernel><cmdline>one ", how,
        "</cmdline></os>\n  <devices>\n    <interface type='user'/>\n    <serial type='file'><source path='", log_,
        "' append='on'/></serial>\n  </devices>\n  <later/>\n</domain>\n");
  }
  // What `quire run --domain --pool=64M` does with it.
  RunOptions OptionsOf(const std::string& xml) {
    const DomainReading reading = ReadDomain(DomainDocument::Parse("domain.xml", xml).value()).value();
    EXPECT_EQ(NotesText(reading.notes),
              "  ignored  line 7    /domain/devices/interface: there is no network card: the guest has no network\n"
              "  ignored  line 10   /domain/later: Quire does not know it\n");
    RunOptions options = RunOptionsOf(reading.guest, xml, /*given=*/{}).value();
    options.pool = ByteCount::MiB(64);
    options.accel = Accel::kKvm;
    options.control = directory_.socket();
    return options;
  }
  std::string DomainXmlOfRun() {
    const absl::StatusOr<std::string> xml =
        AskRun(*options_.control, {.command = ControlRequest::Command::kGuestXml, .guest = "bare.metal"});
    EXPECT_TRUE(xml.ok()) << xml.status();
    return xml.value_or("");
  }

  const std::string kernel_ = absl::StrCat(testing::TempDir(), "/domain_run_test_kernel_", getpid());
  const std::string log_ = absl::StrCat(testing::TempDir(), "/domain_run_test_log_", getpid());
};

TEST_F(DomainRunTest, ADomainBootsItsKernelAndItsConsoleIsWhereItSays) {
  std::ofstream(log_) << "what was there before\n";
  const ChildRun run = RunInChild(OptionsOf(Domain("exit=0")));
  EXPECT_EQ(run.status, 0);
  const nlohmann::json& guest = run.report["guests"][0];
  EXPECT_EQ(guest["name"], "bare.metal");
  EXPECT_EQ(guest["ended"], "exit");
  EXPECT_EQ(guest["console"]["memory_kib"], "16384");
  EXPECT_EQ(guest["console"]["wrong"], "0");
  EXPECT_EQ(
      Contents(log_),
      "what was there before\nquire: magic=ok memory_kib=16384\nquire: wrong=0\ncommand line: kernel one exit=0\n");
}

TEST_F(DomainRunTest, LimitsAreTheGuests) {
  const ChildRun run = RunInChild(OptionsOf(Domain(
      "exit=0",
      "<memtune><hard_limit unit='MiB'>8</hard_limit><swap_hard_limit unit='MiB'>72</swap_hard_limit></memtune>")));
  EXPECT_EQ(run.status, 0);
  const nlohmann::json& guest = run.report["guests"][0];
  EXPECT_EQ(guest["pool_limit_bytes"], 8 << 20);
  EXPECT_EQ(guest["swap_limit_bytes"], 64 << 20);
  EXPECT_LE(guest["peak_resident_bytes"], 8 << 20);
  EXPECT_EQ(guest["console"]["wrong"], "0");
}

TEST_F(DomainRunTest, ARunningGuestIsPrintedAsItWasDescribedWithItsFigures) {
  options_ = OptionsOf(Domain("stay"));
  StartRun();
  std::string expected = options_.pc->domain_xml;
  expected.replace(0, 18, "<domain type='kvm' id='1'");
  EXPECT_EQ(DomainXmlOfRun() + "\n", expected);
  const absl::StatusOr<std::string> changed = AskRun(
      *options_.control, {.command = ControlRequest::Command::kChangeGuest, .guest = "0", .pool_limit_bytes = 8 << 20});
  EXPECT_TRUE(changed.ok()) << changed.status();
  EXPECT_THAT(DomainXmlOfRun(), HasSubstr("<memory unit='MiB'>16</memory>\n"
                                          "  <memtune><hard_limit unit='KiB'>8192</hard_limit></memtune>\n"));
}

TEST_F(DomainRunTest, WithoutABalloonNoneCanBeSet) {
  std::string xml = Domain("stay");
  xml.replace(xml.find("  </devices>"), 0, "    <memballoon model='none'/>\n");
  options_ = RunOptionsOf(ReadDomain(DomainDocument::Parse("a.xml", xml).value())->guest, xml, {}).value();
  options_.pool = ByteCount::MiB(64);
  options_.accel = Accel::kKvm;
  options_.control = directory_.socket();
  StartRun();
  const absl::StatusOr<std::string> changed = AskRun(
      *options_.control, {.command = ControlRequest::Command::kChangeGuest, .guest = "0", .balloon_bytes = 4096});
  EXPECT_THAT(std::string(changed.status().message()), HasSubstr("has no balloon: its domain says"));
}

}  // namespace
}  // namespace quire
