// Experiments whose guests boot a kernel: what they say on their consoles, and phases that take memory from them.
// Nothing here depends on how far guests come in the time that they have, but that they come into it.

#include <filesystem>
#include <string>

#include "absl/strings/substitute.h"
#include "gtest/gtest.h"
#include "tests/lab/guest_test.h"
#include "tests/lab/quire_process.h"

namespace quire {
namespace {

using Json = nlohmann::json;

// Guests of two kinds: one works, of the other the balloon takes a part.
constexpr char kPhases[] = R"(
repetitions = 1
[run]
pool = "384M"
merge = "off"
seconds = 20
kernel = "$0"
initrd = "$1"
[guests.works]
memory = "256M"
cmdline = "console=ttyS0 quiet panic=-1 quire.work=hog:32:1000"
[guests.idles]
memory = "256M"
cmdline = "console=ttyS0 quiet panic=-1 quire.work=balloon:1000"
[[phases]]
name = "boot"
seconds = 90
measured = false
[[phases]]
name = "squeezed"
balloon = { idles = "32M" }
[[phases]]
name = "alone"
stop = ["idles"]
seconds = 5
)";

// The machine's own kernel, with the project's own initramfs.
constexpr char kWork[] = R"(
repetitions = 1
[run]
pool = "256M"
seconds = 20
kernel = "auto"
[guests.linux]
count = 2
memory = "160M"
cmdline = "console=ttyS0 quiet panic=-1 quire.test=work:32"
[[phases]]
name = "boot"
seconds = 90
measured = false
[[phases]]
name = "work"
)";

class LinuxExperimentTest : public LinuxWorkTest {
 protected:
  void TearDown() override {
    std::filesystem::remove_all(out_);
    LinuxWorkTest::TearDown();
  }

  // The result of the only run.
  Json RunExperiment(const std::string& text) {
    const std::string file = NewFile("linux.toml");
    WriteFile(file, text);
    QuireProcess quire({"experiment", file, "--out=" + out_}, kWorkLimit);
    EXPECT_EQ(quire.Wait(), 0) << quire.said() << Contents(out_ + "/runs.log");
    const Json result = Json::parse(Contents(out_ + "/results.jsonl"), nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(result.is_object()) << quire.said();
    return result.is_object() ? result : Json::object();
  }

 private:
  const std::string out_ = testing::TempDir() + "/linux-experiment";
};

TEST_F(LinuxExperimentTest, PhasesAndBalloonsOfLinuxGuestsAreInTheResult) {
  const Json result =
      RunExperiment(absl::Substitute(kPhases, GuestFile(kSeries, "vmlinuz"), GuestFile(kSeries, "initrd")));
  ASSERT_EQ(result.value("outcome", ""), "ok") << result;
  EXPECT_EQ(result["settings"]["accel"], "kvm");
  ASSERT_EQ(result["phases"].size(), 4u);
  EXPECT_EQ(result["phases"][2]["name"], "squeezed");
  EXPECT_EQ(result["phases"][2]["guests"], 2);

  const Json& guests = result["report"]["guests"];
  ASSERT_EQ(guests.size(), 2u);
  for (const Json& guest : guests) {
    EXPECT_EQ(guest["console"]["boot"], "ok") << guest;
    EXPECT_EQ(guest["ended"], "time") << guest;
  }
  EXPECT_GT(result["values"]["console.memory_kib"], 2 * 200 * 1024);

  constexpr double kTarget = 32 << 20;
  EXPECT_EQ(guests[0]["balloon_target_bytes"], 0);
  EXPECT_EQ(guests[0]["balloon_bytes"], 0);
  EXPECT_EQ(guests[1]["balloon_target_bytes"], kTarget);
  EXPECT_GT(guests[1]["balloon_bytes"], 0);
  const Json& timeline = result["timeline"];
  ASSERT_TRUE(timeline.contains("balloon_bytes"));
  EXPECT_EQ(timeline["balloon_bytes"].front(), 0);
  EXPECT_EQ(timeline["balloon_bytes"].back(), guests[1]["balloon_bytes"]);
  // Each is asked, and answers once its driver is there.
  EXPECT_GT(timeline["guest_free_bytes"].back(), 0);
  EXPECT_GT(timeline["guest_total_bytes"].back(), 2 * (200 << 20));
}

TEST_F(LinuxExperimentTest, WhatGuestsSayTheyHaveDoneIsTheirThroughput) {
  const Json result = RunExperiment(kWork);
  ASSERT_EQ(result.value("outcome", ""), "ok") << result;
  const Json& values = result["values"];
  EXPECT_EQ(values["console.filled_mib"], 2 * 32) << result["report"]["guests"];
  EXPECT_EQ(values["console.wrong"], 0);
  EXPECT_GT(values["console.operations"], 0);
  EXPECT_GT(values["operations_per_second"], 0);
  EXPECT_EQ(result["timeline"]["operations"].front(), 0);
  EXPECT_GT(result["timeline"]["operations"].back(), 0);
  // There is no driver to say so.
  EXPECT_FALSE(result["timeline"].contains("guest_free_bytes"));
}

}  // namespace
}  // namespace quire
