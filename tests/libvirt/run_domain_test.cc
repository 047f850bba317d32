// `quire run --connect=URI --domain=NAME`: a domain of libvirt's, read from there and run here; and back.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/libvirt/libvirtd.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/libvirt/connection.h"
#include "workloads/payload/testing/multiboot_kernel.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

struct Outcome {
  int status = -1;
  std::string said;
};

// The program, with these words as a shell takes them.
Outcome Quire(const std::string& words) {
  const std::string said = absl::StrCat(testing::TempDir(), "/run_domain_test_said_", getpid());
  const int status = std::system(absl::StrCat("vmm/quire ", words, " >", said, " 2>&1").c_str());
  Outcome outcome{.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1, .said = Contents(said)};
  unlink(said.c_str());
  return outcome;
}

class RealLibvirtTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto system = KvmSystem::Open(); !system.ok()) GTEST_SKIP() << system.status().message();
    if (const std::string why = libvirtd_.Start(); !why.empty()) GTEST_SKIP() << why;
    absl::StatusOr<std::unique_ptr<LibvirtConnection>> opened = OpenLibvirt(libvirtd_.uri(), LibvirtAccess::kReadWrite);
    ASSERT_TRUE(opened.ok()) << opened.status();
    host_ = *std::move(opened);
    const auto bytes = MultibootKernel();
    std::ofstream(kernel()).write(reinterpret_cast<const char*>(bytes.data()),
                                  static_cast<std::streamsize>(bytes.size()));
  }
  std::string File(const std::string& name) const { return absl::StrCat(libvirtd_.directory(), "/", name); }
  std::string kernel() const { return File("kernel"); }

  Libvirtd libvirtd_;
  std::unique_ptr<LibvirtConnection> host_;
};

TEST_F(RealLibvirtTest, ADefinedDomainIsImportedAndRun) {
  const absl::StatusOr<DomainSummary> defined = host_->Define(absl::StrCat(
      "<domain type='kvm'><name>bare</name><memory unit='MiB'>16</memory><os><type arch='x86_64'>hvm</type>"
      "<kernel>",
      kernel(),
      "</kernel><cmdline>exit=0</cmdline></os><devices><serial type='file'>"
      "<source path='",
      File("guest.log"), "'/></serial></devices></domain>"));
  ASSERT_TRUE(defined.ok()) << defined.status();
  const Outcome outcome =
      Quire(absl::StrCat("run '--connect=", libvirtd_.uri(), "' --domain=bare --pool=64M --accel=kvm"));
  EXPECT_EQ(outcome.status, 0) << outcome.said;
  EXPECT_THAT(outcome.said, HasSubstr("0 refused.")) << "whatever libvirt has added";
  EXPECT_THAT(outcome.said, HasSubstr("bare ended with status 0"));
  EXPECT_THAT(Contents(File("guest.log")), HasSubstr("command line: kernel exit=0"));
  EXPECT_FALSE(host_->FindDomain("bare")->active()) << "it stays as it is";
}

TEST_F(RealLibvirtTest, ARunningGuestCanBeDefined) {
  const std::string socket = File("run.sock");
  const std::string run =
      absl::StrCat("vmm/quire run --kernel=", kernel(), " --cmdline=stay --memory=16M --pool=64M --accel=kvm ",
                   "--seconds=60 --console=", File("guest.log"), " --control=", socket, " >", File("run.said"),
                   " 2>&1 & echo $! >", File("run.pid"));
  ASSERT_EQ(std::system(run.c_str()), 0);
  Outcome xml;
  for (const absl::Time end = absl::Now() + absl::Seconds(30); absl::Now() < end;) {
    xml = Quire(absl::StrCat("domain-xml --socket=", socket));
    if (xml.status == 0) break;
    absl::SleepFor(absl::Milliseconds(100));
  }
  if (const int pid = std::atoi(Contents(File("run.pid")).c_str()); pid > 0) kill(pid, SIGTERM);
  ASSERT_EQ(xml.status, 0) << xml.said << Contents(File("run.said"));
  const absl::StatusOr<DomainSummary> defined = host_->Define(xml.said);
  ASSERT_TRUE(defined.ok()) << defined.status() << xml.said;
  EXPECT_EQ(defined->name, "guest-0");
  EXPECT_EQ(Quire(absl::StrCat("run '--connect=", libvirtd_.uri(), "' --domain=guest-0 --check")).status, 0);
}

}  // namespace
}  // namespace quire
