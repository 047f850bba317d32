#include "vmm/baseline/undo.h"

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/baseline/fake_tree.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using Kind = Undo::Kind;

constexpr SwapCalls kNoSwap = {.on = [](const char*, int) { return 0; }, .off = [](const char*) { return 0; }};

int FailWith(int error) {
  errno = error;
  return -1;
}

TEST(UndoTest, ALineReadsBackAsItWas) {
  for (const Kind kind : {Kind::kWrite, Kind::kSwapOff, Kind::kResetZram, Kind::kRemoveZram, Kind::kRemoveNewZrams,
                          Kind::kRemoveCgroup}) {
    for (const char* value : {"", "7", "two\nlines", "\"quoted\" \\ {}"}) {
      const Undo undo = {.kind = kind, .target = "/sys/a b", .value = value};
      const std::string line = ToLine(undo);
      EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
      const absl::StatusOr<Undo> read = ParseUndo(line);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(*read, undo);
    }
  }
}

TEST(UndoTest, AnythingElseIsNone) {
  for (const char* line :
       {"", "{}", "[]", "null", "7", "{\"undo\":\"write\"}", "{\"undo\":\"write\",\"target\":\"/a\",\"value\":7}",
        "{\"undo\":\"erase\",\"target\":\"/a\",\"value\":\"\"}", "{\"undo\":\"write\",\"target\":\"a\",\"value\":\"\"}",
        "{\"undo\":\"write\",\"target\":\"/a\",\"value\":\"\""}) {
    EXPECT_EQ(ParseUndo(line).status().code(), absl::StatusCode::kInvalidArgument) << line;
  }
}

TEST(UndoTest, ASettingThatHasGoneIsAsItShouldBe) {
  FakeTree host;
  host.Put("/a", "changed");
  for (int twice = 0; twice < 2; ++twice) {
    EXPECT_EQ(Apply({.target = host.Path("/a"), .value = "before"}, kNoSwap), absl::OkStatus());
    EXPECT_EQ(host.Get("/a"), "before");
  }
  EXPECT_EQ(Apply({.target = host.Path("/gone"), .value = "before"}, kNoSwap), absl::OkStatus());
  EXPECT_FALSE(host.Has("/gone"));
  EXPECT_NE(Apply({.target = host.root(), .value = "before"}, kNoSwap), absl::OkStatus()) << "a folder";
}

TEST(UndoTest, SwapSpaceThatIsNotThereIsAsItShouldBe) {
  const Undo undo = {.kind = Kind::kSwapOff, .target = "/dev/zram0"};
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(Apply(undo, {.off = [](const char*) { return FailWith(EINVAL); }}), absl::OkStatus());
  EXPECT_EQ(Apply(undo, {.off = [](const char*) { return FailWith(ENOENT); }}), absl::OkStatus());
  EXPECT_THAT(std::string(Apply(undo, {.off = [](const char*) { return FailWith(ENOMEM); }}).message()),
              HasSubstr("swapoff /dev/zram0"));
}

TEST(UndoTest, ADeviceOfAnotherSizeIsSomebodyElses) {
  FakeTree host;
  host.Put("/sys/block/zram0/disksize", "4096");
  host.Put("/sys/block/zram0/reset", "");
  Undo undo = {.kind = Kind::kResetZram, .target = host.Path("/sys/block/zram0"), .value = "8192"};
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(host.Get("/sys/block/zram0/reset"), "");
  undo.value = "4096";
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(host.Get("/sys/block/zram0/reset"), "1");
  undo.target = host.Path("/sys/block/zram7");
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
}

TEST(UndoTest, ADeviceThatWasMadeAnewIsSomebodyElses) {
  FakeTree host;
  host.Put("/sys/class/zram-control/hot_remove", "");
  host.Put("/sys/block/zram3/diskseq", "17");
  Undo undo = {.kind = Kind::kRemoveZram, .target = host.Path("/sys/block/zram3"), .value = "16"};
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(host.Get("/sys/class/zram-control/hot_remove"), "");
  undo.value = "17";
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(host.Get("/sys/class/zram-control/hot_remove"), "3");
  undo.target = host.Path("/sys/block/zram4");
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(host.Get("/sys/class/zram-control/hot_remove"), "3");
}

TEST(UndoTest, ADeviceWhoseNumberIsNotKnownIsTheOneThatIsNewAndNotSetUp) {
  FakeTree host;
  host.Put("/sys/class/zram-control/hot_remove", "");
  host.Put("/sys/block/zram0/disksize", "0");
  host.Put("/sys/block/vda/size", "0");
  const Undo undo = {.kind = Kind::kRemoveNewZrams, .target = host.Path("/sys"), .value = "zram0"};
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  host.Put("/sys/block/zram1/disksize", "4096");
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(host.Get("/sys/class/zram-control/hot_remove"), "");
  host.Put("/sys/block/zram2/disksize", "0");
  EXPECT_EQ(Apply(undo, kNoSwap), absl::OkStatus());
  EXPECT_EQ(host.Get("/sys/class/zram-control/hot_remove"), "2");
  host.Put("/sys/class/zram-control/hot_remove", "");
  host.Put("/sys/block/zram3/disksize", "0");
  EXPECT_THAT(std::string(Apply(undo, kNoSwap).message()), HasSubstr("it cannot be told which: zram2, zram3"));
  EXPECT_EQ(host.Get("/sys/class/zram-control/hot_remove"), "");
}

TEST(UndoTest, ACgroupGoesOnce) {
  FakeTree host;
  host.MakeFolder("/group");
  for (int twice = 0; twice < 2; ++twice) {
    EXPECT_EQ(Apply({.kind = Kind::kRemoveCgroup, .target = host.Path("/group")}, kNoSwap), absl::OkStatus());
    EXPECT_FALSE(host.Has("/group"));
  }
}

}  // namespace
}  // namespace quire
