// A Linux guest that a domain of libvirt's describes has what is described.
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"
#include "tests/lab/quire_process.h"
#include "vmm/console_report.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

class LinuxDomainTest : public LinuxWorkTest {
 protected:
  static std::string Kernel() {
    const std::string unpacked = GuestFile(kSeries, "vmlinux");
    return std::filesystem::absolute(access(unpacked.c_str(), R_OK) == 0 ? unpacked : GuestFile(kSeries, "vmlinuz"));
  }
  // Runs a domain of 512 MiB to its end; whose serial port is its console.
  Outcome RunDomain(
      const std::string& work, const std::string& devices,
      const std::function<void(QuireProcess&)>& meanwhile = [](QuireProcess&) {}) {
    const std::string domain = NewFile("domain.xml"), log = NewFile("log");
    WriteFile(domain, absl::StrCat("<domain type='kvm'><name>debian</name><memory unit='MiB'>512</memory>",
                                   "<currentMemory unit='MiB'>496</currentMemory><vcpu>2</vcpu><os><type>hvm</type>",
                                   "<kernel>", Kernel(), "</kernel><initrd>",
                                   std::filesystem::absolute(GuestFile(kSeries, "initrd")).string(),
                                   "</initrd><cmdline>console=ttyS0 quiet panic=-1 quire.work=", work,
                                   "</cmdline></os><devices><serial type='file'><source path='", log, "'/></serial>",
                                   devices, "</devices></domain>"));
    QuireProcess quire({"run", "--accel=kvm", "--domain=" + domain, "--pool=768M", "--json=" + report_path()},
                       kBootLimit);
    meanwhile(quire);
    Outcome outcome;
    outcome.status = quire.Wait();
    outcome.said = quire.said();
    outcome.report = ReadReport();
    outcome.consoles = {Contents(log)};
    return outcome;
  }
};

TEST_F(LinuxDomainTest, HasItsVcpusItsDiskAndItsBalloon) {
  const std::string disk = NewFile("disk");
  WriteFile(disk, std::string(1000 * 512, 'x'));
  const std::string devices =
      absl::StrCat("<disk type='file'><source file='", disk, "'/><target dev='vda' bus='virtio'/><readonly/></disk>",
                   "<memballoon model='virtio' autodeflate='on'><stats period='1'/></memballoon>");
  // Its driver tells of its memory without being asked for it here.
  const auto tells = [] {
    const std::vector<std::string> sockets = RunningSockets();
    if (sockets.empty()) return false;
    const absl::StatusOr<std::string> guest =
        AskRun(sockets.front(), {.command = ControlRequest::Command::kGuest, .guest = "0"});
    return guest.ok() && absl::StrContains(*guest, "\"available_bytes\":");
  };
  BalloonState balloon;
  const Outcome outcome = RunDomain("disk,idle:40", devices, [&](QuireProcess& quire) {
    EXPECT_TRUE(quire.Await(tells)) << quire.said();
    EXPECT_TRUE(quire.Await([&] { return AskBalloon(0, balloon) && balloon.actual_mib == 16; })) << quire.said();
  });
  ExpectGoodGuests(outcome);
  EXPECT_THAT(outcome.said, HasSubstr("0 ignored, 0 refused."));
  const nlohmann::json guest = outcome.report["guests"][0];
  EXPECT_EQ(guest["name"], "debian");
  EXPECT_EQ(guest["ended"], "power off");
  EXPECT_EQ(guest["balloon_target_bytes"], 16 << 20);
  EXPECT_EQ(guest["reported_bytes"], 0) << "free page reporting is off unless it is on";
  const ConsoleReport said = ReportOf(outcome.consoles[0]);
  EXPECT_EQ(said.Get("cpus"), "2");
  EXPECT_EQ(said.Get("vda_sectors"), "1000");
  EXPECT_EQ(said.Get("vda_ro"), "1");
  EXPECT_EQ(said.Get("virtio_devices"), "virtio0,virtio1,virtio2,virtio3");
}

TEST_F(LinuxDomainTest, BootsWithoutABalloonWhereThereIsToBeNone) {
  const Outcome outcome = RunDomain("", "<memballoon model='none'/>");
  ExpectGoodGuests(outcome);
  EXPECT_THAT(outcome.said, HasSubstr("/domain/currentMemory: the guest has no balloon"));
  EXPECT_EQ(outcome.report["guests"][0]["balloon_bytes"], 0);
  EXPECT_EQ(ReportOf(outcome.consoles[0]).Get("virtio_devices"), "virtio0,virtio1") << "entropy and a console";
}

}  // namespace
}  // namespace quire
