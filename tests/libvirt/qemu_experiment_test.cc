// Experiments with QEMU's domains, through a libvirtd of the test's own, with the host kernel's KSM, zram and cgroups:
// what comes out, and what is left when one is killed. Where KVM cannot run a stock kernel its guests are emulated.
#include <glob.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/experiment/quire_experiment.h"
#include "tests/libvirt/libvirtd.h"
#include "vmm/accel.h"
#include "vmm/baseline/real_host.h"
#include "vmm/boot/cpio.h"
#include "vmm/boot/test_initramfs.h"
#include "vmm/host.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

struct Kernel {
  std::string path;
  std::string balloon_module;  // empty: not to be had
};

// The paths that a pattern matches, the newest version last.
std::vector<std::string> Matching(const std::string& pattern) {
  glob_t found = {};
  std::vector<std::string> paths;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  std::sort(paths.begin(), paths.end(),
            [](const std::string& a, const std::string& b) { return strverscmp(a.c_str(), b.c_str()) < 0; });
  return paths;
}

// One of the laboratory's, whose modules are there too, or the host's own. Without a path: there is none.
Kernel FindTestKernel() {
  const char* const cache = getenv("XDG_CACHE_HOME");
  const passwd* const user = getpwuid(geteuid());
  const std::string base = cache != nullptr ? cache : absl::StrCat(user == nullptr ? "" : user->pw_dir, "/.cache");
  const std::vector<std::string> modules = Matching(base + "/quire/lab/kernel-6.12-*/guest_modules/virtio_balloon.ko");
  if (!modules.empty()) {
    const std::filesystem::path folder = std::filesystem::path(modules.back()).parent_path().parent_path();
    return {.path = folder / "vmlinuz", .balloon_module = modules.back()};
  }
  const std::vector<std::string> own = Matching("/boot/vmlinuz-*");
  return own.empty() ? Kernel{} : Kernel{.path = own.back(), .balloon_module = ""};
}

// The project's initramfs, and the balloon's driver in an archive behind it.
void WriteInitrd(const std::string& path, const std::string& module) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(TestInitramfs().data()),
             static_cast<std::streamsize>(TestInitramfs().size()));
  if (module.empty()) return;
  const std::string content = Contents(module);
  CpioWriter more;
  more.AddFolder("modules");
  more.AddFile("modules/10-virtio_balloon.ko",
               absl::MakeSpan(reinterpret_cast<const std::byte*>(content.data()), content.size()), 0644);
  const std::vector<std::byte> bytes = std::move(more).Finish();
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

// $0: kernel, $1: initrd, $2: libvirt's address.
constexpr char kBoth[] = R"(
repetitions = 1
[run]
kernel = "$0"
initrd = "$1"
uri = "$2"
pool = "256M"
seconds = 8
[guests.works]
count = 2
memory = "128M"
cmdline = "console=ttyS0 quiet panic=-1 quire.test=work:40"
[guests.late]
memory = "128M"
cmdline = "console=ttyS0 quiet panic=-1 quire.test=work:16"
[[phases]]
name = "boot"
seconds = 30
measured = false
[[phases]]
name = "work"
[[phases]]
name = "squeezed"
balloon = { works = "24M" }
start = ["late"]
[[phases]]
name = "fewer"
seconds = 2
stop = ["works"]
[matrix]
merge = ["on", "off"]
engine = ["quire", "qemu"]
)";

class QemuExperimentTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string why = ObstacleToBaseline();
    kernel_ = FindTestKernel();
    if (why.empty() && kernel_.path.empty()) why = "there is no kernel, neither in /boot nor in the laboratory's cache";
    if (why.empty()) why = libvirtd_.Start();
    if (!why.empty()) GTEST_SKIP() << "NOTHING ABOUT EXPERIMENTS WITH QEMU IS TESTED HERE: " << why;
    experiment_ = std::make_unique<QuireExperiment>("");
    // QEMU's processes have no parents either, and libvirt waits until they are gone from the list: not this process's
    // children, which would stay there until it looks.
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    const std::string initrd = experiment_->directory() + "/initrd";
    WriteInitrd(initrd, kernel_.balloon_module);
    std::ofstream(experiment_->file()) << absl::Substitute(kBoth, kernel_.path, initrd, libvirtd_.uri());
    scanned_ = Contents(kPagesToScan);
    std::ofstream(kPagesToScan) << "5000";
    before_ = HostSettingsNow();
  }
  void TearDown() override {
    if (!scanned_.empty()) std::ofstream(kPagesToScan) << scanned_;
  }
  // That run, as libvirt notes them for its next start.
  std::vector<std::string> Domains() const { return Matching(libvirtd_.directory() + "/run/libvirt/qemu/*.xml"); }
  static void Await(const std::function<bool()>& condition) {
    for (int tries = 0; tries < 600 && !condition(); ++tries) absl::SleepFor(absl::Milliseconds(100));
  }
  static std::vector<std::string> RunDirectories() { return Matching("/tmp/quire-qemu.*"); }

  // As ksmd comes it takes a minute for what is looked at here.
  static constexpr char kPagesToScan[] = "/sys/kernel/mm/ksm/pages_to_scan";

  std::string scanned_;
  Libvirtd libvirtd_;
  Kernel kernel_;
  std::unique_ptr<QuireExperiment> experiment_;
  std::map<std::string, std::string> before_;
};

TEST_F(QemuExperimentTest, TheSameGuestsRunInLibvirtsDomainsAndWhatTheySayIsInTheResults) {
  const ProgramEnd end = experiment_->Run();
  EXPECT_EQ(end.code(), 0) << end.said << Contents(experiment_->out() + "/runs.log") << libvirtd_.Said();
  EXPECT_EQ(HostSettingsNow(), before_);
  EXPECT_TRUE(Domains().empty());
  EXPECT_TRUE(RunDirectories().empty());
  const bool quire_too = !NestedPagingObstacle(RealHost()) && !KvmObstacle(RealHost());
  if (!quire_too) {
    EXPECT_THAT(end.said, HasSubstr("Without the runs whose guests KVM would have to run"));
  }
  std::map<std::string, Json> results;
  for (const Json& result : experiment_->Results()) results[result["run"]] = result;
  EXPECT_EQ(results.size(), quire_too ? 4u : 2u);
  for (const char* merge : {"on", "off"}) {
    const Json& result = results[absl::StrCat("merge=", merge, " engine=qemu repetition=1")];
    ASSERT_TRUE(result.is_object()) << end.said;
    SCOPED_TRACE(result["run"]);
    EXPECT_EQ(result["outcome"], "ok") << result["reason"];
    EXPECT_EQ(result["settings"]["accel"], result["report"]["accel"]);
    EXPECT_NE(result["settings"]["accel_because"], "");
    EXPECT_EQ(result["report"]["engine"], "qemu");
    const Json& values = result["values"];
    EXPECT_EQ(values["console.wrong"], 0);
    // Those that came late may still be about it.
    EXPECT_GE(values["console.filled_mib"], 2 * 40) << result["report"]["guests"];
    EXPECT_GT(values["console.operations"], 0);
    EXPECT_GT(values["operations_per_second"], 0);
    EXPECT_GT(values["cpu_seconds"], 0);
    EXPECT_GT(values["memory_bytes"], 80 << 20);
    EXPECT_EQ(values["guests_that_ran"], 3);
    ASSERT_EQ(result["phases"].size(), 5u);
    EXPECT_EQ(result["phases"][2]["guests"], 2);
    EXPECT_EQ(result["phases"][3]["guests"], 3);
    const Json& timeline = result["timeline"];
    EXPECT_GT(timeline["rss_bytes"][timeline["rss_bytes"].size() / 2], 80 << 20);
    // ksmd merges what domains offer, and only that.
    const std::vector<double> shared = timeline["shared_bytes"];
    const double most = *std::max_element(shared.begin(), shared.end());
    EXPECT_EQ(most > (1 << 20), merge == std::string("on")) << most;
    if (kernel_.balloon_module.empty()) continue;
    const Json& guest = result["report"]["guests"][0];
    EXPECT_EQ(guest["balloon_bytes"], 24 << 20);
    EXPECT_EQ(guest["memory_stats"]["actual"], (128 - 24) << 20);
    EXPECT_GT(guest["memory_stats"]["available"], 0) << guest;
  }
  if (kernel_.balloon_module.empty())
    std::cout << "BALLOONS ARE NOT TESTED HERE: " << kernel_.path << " has no module\n";
}

TEST_F(QemuExperimentTest, KilledItLeavesNoDomainAndTheHostAsItWasAndGoesOn) {
  const pid_t quire = experiment_->Start();
  const bool there = QuireExperiment::WaitUntil(quire, [&] { return Domains().size() == 2; });
  kill(quire, SIGKILL);
  const ProgramEnd end = experiment_->Wait(quire);
  ASSERT_TRUE(there) << end.said;
  // libvirt sees the connection go, and the janitor the processes.
  Await([this] { return HostSettingsNow() == before_; });
  EXPECT_EQ(HostSettingsNow(), before_);
  Await([this] { return Domains().empty(); });
  EXPECT_TRUE(Domains().empty()) << Domains().front();
  EXPECT_EQ(RunDirectories().size(), 1u);

  // Interrupted, it sees to all of that itself, and to what the killed one has left.
  const pid_t again = experiment_->Start();
  EXPECT_TRUE(QuireExperiment::WaitUntil(again, [&] { return Domains().size() == 2; }));
  kill(again, SIGINT);
  EXPECT_EQ(experiment_->Wait(again).code(), 128 + SIGINT);
  EXPECT_EQ(HostSettingsNow(), before_);
  EXPECT_TRUE(RunDirectories().empty());
  Await([this] { return Domains().empty(); });
  EXPECT_TRUE(Domains().empty()) << Domains().front();
}

TEST_F(QemuExperimentTest, WithoutLibvirtItIsSaidWhatIsMissing) {
  std::string text = Contents(experiment_->file());
  text.replace(text.find(libvirtd_.uri()), libvirtd_.uri().size(), "qemu+unix:///system?socket=/nonexistent/sock");
  text.replace(text.find("engine = [\"quire\", \"qemu\"]"), 26, "engine = [\"qemu\"]");
  std::ofstream(experiment_->file()) << text;
  const ProgramEnd end = experiment_->Run();
  EXPECT_EQ(end.code(), 3) << end.said;
  EXPECT_THAT(end.said, HasSubstr("/nonexistent/sock"));
  EXPECT_TRUE(experiment_->Results().empty());
}

}  // namespace
}  // namespace quire
