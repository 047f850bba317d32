// Runs the real program: what it says and ends with for all that can be wrong with a command line.

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quire {
namespace {

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
};

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void Redirect(const std::string& path, int to) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(fd, to);
  close(fd);
}

Outcome Quire(const std::vector<std::string>& args) {
  const std::string out = absl::StrCat(testing::TempDir(), "/cli_test_out_", getpid());
  const std::string err = absl::StrCat(testing::TempDir(), "/cli_test_err_", getpid());
  std::vector<char*> argv = {const_cast<char*>("quire")};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    Redirect(out, STDOUT_FILENO);
    Redirect(err, STDERR_FILENO);
    execv("vmm/quire", argv.data());
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), Contents(out), Contents(err)};
}

// A run on any host.
std::vector<std::string> SoftRun(const std::vector<std::string>& more) {
  std::vector<std::string> args = {"run", "--accel=soft", "--guests=2", "--memory=8M",
                                   "--workload=zipf:operations=20000"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

struct BadInput {
  std::vector<std::string> args;
  std::string says;  // part of the sentence
};

void PrintTo(const BadInput& input, std::ostream* out) {
  for (const std::string& arg : input.args) *out << arg << ' ';
}

class BadInputTest : public testing::TestWithParam<BadInput> {};

TEST_P(BadInputTest, GetsOneSentenceAndStatus2) {
  const Outcome outcome = Quire(GetParam().args);
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_TRUE(absl::StrContains(outcome.err, GetParam().says)) << outcome.err;
  EXPECT_TRUE(absl::StartsWith(outcome.err, "quire: "));
  EXPECT_TRUE(absl::EndsWith(outcome.err, ".\n") || absl::EndsWith(outcome.err, "?\n")) << outcome.err;
  EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << outcome.err;
  EXPECT_FALSE(absl::StrContains(outcome.err, ". ")) << outcome.err;
}

INSTANTIATE_TEST_SUITE_P(
    CommandLine, BadInputTest,
    testing::Values(
        BadInput{{}, "no command: start with `quire run`"}, BadInput{{"rnu"}, "did you mean `quire run`?"},
        BadInput{{"launch"}, "`quire help` lists them"}, BadInput{{"help", "docter"}, "did you mean `quire doctor`?"},
        BadInput{{"--guests=4"}, "is not a command"}, BadInput{{"run", "zipf"}, "is not a flag"},
        BadInput{{"run", "--guest=4"}, "did you mean --guests?"},
        BadInput{{"run", "--undefok=x"}, "--undefok is not a flag of quire run"},
        BadInput{{"run", "--flagfile=x"}, "--flagfile is not a flag of quire run"},
        BadInput{{"run", "--guests"}, "--guests has no value"}, BadInput{{"run", "--guests="}, "--guests has no value"},
        BadInput{{"run", "--guests=four"}, "write a whole number"}, BadInput{{"run", "--guests=0"}, "from 1 to"},
        BadInput{{"run", "--guests=-4"}, "from 1 to"}, BadInput{{"run", "--vcpus=0"}, "from 1 to"},
        BadInput{{"run", "--memory=0"}, "leaves nothing"}, BadInput{{"run", "--memory=big"}, "write a size"},
        BadInput{{"run", "--memory=4097"}, "not a multiple of the page size"},
        BadInput{{"run", "--memory=12K"}, "write 64K or more"},
        BadInput{{"run", "--memory=100000G"}, "larger than a guest's address space"},
        BadInput{{"run", "--memory=99999999999999999999G"}, "write a size"},
        BadInput{{"run", "--memory=15T"}, "that this host has"}, BadInput{{"run", "--pool=0"}, "leaves nothing"},
        BadInput{{"run", "--pool=15T"}, "that this host has"}, BadInput{{"run", "--pool=4K"}, "can run in"},
        BadInput{{"run", "--pool=100000001"}, "not a multiple of the page size"},
        BadInput{{"run", "--guest_pool_limit=1M"}, "write 4M or more"},
        BadInput{{"run", "--guest_swap_limit=0"}, "leave it out"},
        BadInput{{"run", "--overcommit=2"}, "write allow or strict"},
        BadInput{{"run", "--accel=fast"}, "write auto, kvm or soft"},
        BadInput{{"run", "--engine=steam"}, "write quire or kernel"}, BadInput{{"run", "--workload=sleep"}, "sleep"},
        BadInput{{"run", "--seconds=0"}, "above 0"}, BadInput{{"run", "--compressibility=0"}, "write a ratio"},
        BadInput{{"run", "--huge_stream=0"}, "from 1 to 255"},
        BadInput{{"run", "--huge_window=70000"}, "from 1 to 65535"},
        BadInput{{"run", "--reclaim_threads=0"}, "from 1 to 64"}, BadInput{{"run", "--seed=x"}, "write a whole number"},
        BadInput{{"run", "--content=/nonexistent"}, "cannot be read (no such file or directory)"},
        BadInput{{"run", "--content=/"}, "is not a regular file"},
        BadInput{{"run", "--payload=/nonexistent"}, "cannot be read (no such file or directory)"},
        BadInput{{"run", "--payload=/bin/true", "--accel=soft"}, "--payload needs KVM"},
        BadInput{{"run", "--payload=/bin/true", "--workload=zipf"}, "give only one of them"},
        BadInput{{"run", "--json=/nonexistent/report.json"}, "cannot be written (no such file or directory)"},
        BadInput{{"run", "--json=/"}, "is a directory"}, BadInput{{"run", "--json="}, "--json has no value"},
        BadInput{{"bench"}, "no benchmark is named"}, BadInput{{"bench", "--runs=2"}, "no benchmark is named"},
        BadInput{{"bench", "tuoch"}, "did you mean `quire bench touch`?"},
        BadInput{{"bench", "sleep"}, "`quire bench --help` lists them"},
        BadInput{{"bench", "touch", "--runs=0"}, "from 1 to"},
        BadInput{{"bench", "touch", "--side=linux"}, "write quire, kernel, kernel-best or kernel-small"},
        BadInput{{"bench", "touch", "--guests=2"}, "--guests is not a flag of quire bench"},
        BadInput{{"bench", "merge-scan", "--guests=0"}, "--guests=0 is out of range"},
        BadInput{{"bench", "touch", "--content=/nonexistent"}, "cannot be read"},
        BadInput{{"doctor", "--guests=4"}, "--guests is not a flag of quire doctor"},
        BadInput{{"doctor", "--json=/nonexistent/report.json"}, "cannot be written"},
        BadInput{{"zones", "/nonexistent"}, "the report /nonexistent cannot be read"},
        BadInput{{"zones", "/"}, "cannot be read"}, BadInput{{"zones", "/dev/null"}, "is empty"},
        BadInput{{"zones", "--json=x"}, "--json is not a flag of quire zones"},
        BadInput{{"zones", "a", "b"}, "is not a flag"}, BadInput{{"zones", "vmm/quire"}, "this is no report"},
        BadInput{{"manage"}, "no host is named: write --connect=qemu:///system"},
        BadInput{{"manage", "--connect=test:///default", "--policy=/nonexistent"}, "/nonexistent cannot be read"},
        BadInput{{"manage", "--connect=test:///default", "--policy=vmm/quire"}, "--policy"},
        BadInput{{"manage", "--connect=test:///default", "--undo", "--once"}, "leave --dry-run and --once out"},
        BadInput{{"manage", "--connect=test:///default", "--poilcy=x"}, "did you mean --policy?"},
        BadInput{{"top", "--interval=0"}, "from 0.1 to 3600"}, BadInput{{"top", "--interval=x"}, "seconds such as 1"},
        BadInput{{"top", "--sort=size"}, "write guest, state, operations"},
        BadInput{{"top", "--socket=/nonexistent"}, "no run of guests listens on /nonexistent"},
        BadInput{{"balloon", "--guest=0", "--socket=/nonexistent"}, "no run of guests listens on"},
        BadInput{{"report"}, "no directory is named"}, BadInput{{"report", "--out=x"}, "no directory is named"},
        BadInput{{"report", "/nonexistent"}, "there is no directory /nonexistent"},
        BadInput{{"report", "vmm/quire"}, "vmm/quire is no directory"},
        BadInput{{"report", "vmm"}, "vmm has no experiment.json"},
        BadInput{{"report", "vmm", "--json=x"}, "--json is not a flag of quire report"},
        BadInput{{"experiment"}, "no experiment is named: write quire experiment FILE --out=DIR"},
        BadInput{{"experiment", "--out=/nonexistent"}, "no experiment is named"},
        BadInput{{"experimnt"}, "did you mean `quire experiment`?"},
        BadInput{{"experiment", "/nonexistent"},
                 "the experiment /nonexistent cannot be read (no such file or directory)"},
        BadInput{{"experiment", "/"}, "the experiment / is not a regular file"},
        BadInput{{"experiment", "/dev/null"}, "is not a regular file"},
        BadInput{{"experiment", "vmm/quire"}, "is too large"},
        BadInput{{"experiment", "experiments/BUILD"}, "cannot be read"},
        BadInput{{"experiment", "experiments/huge.toml"}, "the results need a place: write --out=DIR"},
        BadInput{{"experiment", "experiments/huge.toml", "--out="}, "--out has no value"},
        BadInput{{"experiment", "experiments/huge.toml", "--quik"}, "did you mean --quick?"},
        BadInput{{"experiment", "experiments/huge.toml", "--guests=2"}, "--guests is not a flag of quire experiment"},
        BadInput{{"experiment", "experiments/huge.toml", "experiments/density.toml"}, "is not a flag"},
        BadInput{{"experiment", "experiments/huge.toml", "--task=x"}, "write the number of a task"},
        BadInput{{"experiment", "experiments/huge.toml", "--out=/nonexistent/x", "--task=-1"}, "from 0"},
        BadInput{{"run", "--check"}, "--check is for a domain: name one with --domain=FILE"},
        BadInput{{"run", "--domain=/nonexistent"}, "--domain=/nonexistent cannot be read (no such file or directory)"},
        BadInput{{"run", "--connect=test:///default"}, "has no domain: name one with --domain=NAME"},
        BadInput{{"run", "--domain="}, "--domain has no value"},
        BadInput{{"run", "--domain=vmm/quire"}, "is too large"},
        BadInput{{"run", "--domain=vmm/libvirt/domain/testdata/malformed/no_name.xml"},
                 "no_name.xml:1: the domain has no <name>"},
        BadInput{{"domain-xml", "--guest=a b"}, "is no guest: write its number or name"},
        BadInput{{"domain-xml", "--socket=/nonexistent"}, "no run of guests listens on /nonexistent"},
        BadInput{{"domain-xml", "web"}, "is not a flag"},
        BadInput{{"version", "--json"}, "--json is not a flag of quire version"}));

TEST(CliTest, HelpIsNoError) {
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{{"help"},
                                                                                    {"--help"},
                                                                                    {"-h"},
                                                                                    {"help", "run"},
                                                                                    {"run", "--help"},
                                                                                    {"run", "--help=1"},
                                                                                    {"run", "--guests=x", "--help"},
                                                                                    {"bench", "--help"},
                                                                                    {"bench", "touch", "--help"},
                                                                                    {"doctor", "--help"},
                                                                                    {"zones", "--help"},
                                                                                    {"top", "--help"},
                                                                                    {"report", "--help"},
                                                                                    {"experiment", "--help"},
                                                                                    {"domain-xml", "--help"},
                                                                                    {"help", "experiment"},
                                                                                    {"version", "--help"}}) {
    const Outcome outcome = Quire(args);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_EQ(outcome.err, "");
    EXPECT_TRUE(absl::StrContains(outcome.out, "Usage: quire")) << outcome.out;
  }
}

TEST(CliTest, TheHelpOfRunHasFlagsWorkloadsExamplesAndStatuses) {
  const std::string help = Quire({"run", "--help"}).out;
  for (const char* part : {"--guests=N", "(default 4,", "--clones=N", "--memory=SIZE", "(default 256M)", "zipf",
                           "Examples\n", "Exit status\n", "  4  out of memory\n"}) {
    EXPECT_TRUE(absl::StrContains(help, part)) << part;
  }
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 120u) << line;
}

TEST(CliTest, TheHelpOfExperimentHasExamplesAndStatuses) {
  const std::string help = Quire({"experiment", "--help"}).out;
  for (const char* part :
       {"Usage: quire experiment FILE --out=DIR [flags]\n", "--quick", "--plan", "--slurm_options=OPTIONS",
        "Examples\n", "quire experiment experiments/overcommit.toml --out=overcommit --quick\n", "docs/experiments.md",
        "Exit status\n"}) {
    EXPECT_TRUE(absl::StrContains(help, part)) << part << " in " << help;
  }
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 120u) << line;
}

TEST(CliTest, APlanSaysWhatWouldBeRunAndMakesNothing) {
  for (const char* name : {"density", "huge", "overcommit"}) {
    const Outcome outcome = Quire({"experiment", absl::StrCat("experiments/", name, ".toml"), "--quick", "--plan"});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    EXPECT_TRUE(absl::StrContains(outcome.out, absl::StrCat("\n", name, " (quick): "))) << outcome.out;
    EXPECT_TRUE(absl::StrContains(outcome.out, " of guests at work.\n1  ")) << outcome.out;
  }
}

constexpr char kDomains[] = "vmm/libvirt/domain/testdata/";

TEST(CliTest, ADomainIsReportedOnElementByElement) {
  const Outcome outcome = Quire({"run", absl::StrCat("--domain=", kDomains, "direct_boot.xml"), "--check"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(outcome.out, absl::StrCat("Domain direct-1 of ", kDomains,
                                      "direct_boot.xml: 1 GiB, 2 vCPUs, 2 disks, a balloon of 256 "
                                      "MiB; 4 ignored, 0 refused.\n",
                                      Contents(absl::StrCat(kDomains, "direct_boot.notes"))));
}

TEST(CliTest, ADomainThatIsRefusedIsReportedOnAndNotStarted) {
  const Outcome outcome = Quire({"run", absl::StrCat("--domain=", kDomains, "pci_passthrough.xml")});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_TRUE(absl::StrContains(outcome.out, "  refused  line 20   /domain/devices/hostdev[1]: ")) << outcome.out;
  EXPECT_EQ(outcome.err,
            "quire: domain gpu-node is not started, since its guest would not be what is described (2 refused): change "
            "what is refused, or run it elsewhere.\n");
}

TEST(CliTest, FlagsThatContradictADomainAreRefused) {
  const std::string domain = absl::StrCat("--domain=", kDomains, "minimal.xml");
  for (const auto& [flag, says] :
       std::vector<std::pair<std::string, std::string>>{{"--memory=1G", "its <memory> does"},
                                                        {"--accel=soft", "--kernel needs KVM"},
                                                        {"--guests=2", "it is one guest"}}) {
    const Outcome outcome = Quire({"run", domain, flag});
    EXPECT_EQ(outcome.status, 2) << flag;
    EXPECT_TRUE(absl::StrContains(outcome.err, says)) << outcome.err;
  }
  EXPECT_EQ(Quire({"run", domain, "--check", "--vcpus=2"}).status, 2);
}

// Of libvirt's test driver: a host that it makes up.
TEST(CliTest, ADomainIsReadThroughLibvirt) {
  for (const char* domain : {"test", "6695eb01-f6a4-8304-79aa-97f2502e193f"}) {
    const Outcome outcome = Quire({"run", "--connect=test:///default", "--check", absl::StrCat("--domain=", domain)});
    if (absl::StrContains(outcome.err, "install libvirt")) GTEST_SKIP() << outcome.err;
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_TRUE(absl::StartsWith(outcome.out, "Domain test of test:///default: 8 GiB, 2 vCPUs")) << outcome.out;
    EXPECT_TRUE(absl::StrContains(outcome.out, "/domain/@type: Quire runs domains of type kvm, not test"));
  }
  const Outcome nobody = Quire({"run", "--connect=test:///default", "--domain=nobody"});
  EXPECT_EQ(nobody.status, 2);
  EXPECT_EQ(nobody.err,
            "quire: --connect=test:///default has no domain nobody: `virsh --connect=test:///default list --all` lists "
            "them.\n");
  EXPECT_NE(Quire({"run", "--connect=nonsense:///x", "--domain=test"}).status, 0);
}

TEST(CliTest, WhatIsWrongWithADomainsRunIsSaidOfTheDomain) {
  const std::string domain = absl::StrCat("--domain=", kDomains, "direct_boot.xml");
  const Outcome outcome = Quire({"run", domain});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(
      outcome.err,
      "quire: domain direct-1: --kernel=/srv/guests/vmlinuz-6.12 cannot be read (no such file or directory): name "
      "a file that can be read.\n");
}

TEST(CliTest, Version) {
  for (const char* arg : {"version", "--version"}) {
    const Outcome outcome = Quire({arg});
    EXPECT_EQ(outcome.status, 0);
    EXPECT_TRUE(absl::StartsWith(outcome.out, "quire 0.")) << outcome.out;
  }
}

// A small guest on software vCPUs, for which neither side needs anything of the host.
TEST(CliTest, ABenchmarkMeasuresBothSidesInTurn) {
  const Outcome outcome = Quire({"bench", "touch", "--accel=soft", "--memory=16M", "--runs=2", "--json=-"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(absl::StrContains(outcome.err, "run 2 of 2:  quire ")) << outcome.err;
  EXPECT_TRUE(absl::StrContains(outcome.err, "times the kernel, as it comes")) << outcome.err;
  EXPECT_TRUE(absl::StartsWith(outcome.out, "{\n")) << outcome.out;
  for (const char* key : {"\"name\": \"touch\"", "\"ratio\": ", "\"kernel_small\": ", "\"mismatched_pages\": 0"}) {
    EXPECT_TRUE(absl::StrContains(outcome.out, key)) << key << " in " << outcome.out;
  }
}

TEST(CliTest, OneSideOfABenchmarkIsALineOfJson) {
  const Outcome outcome = Quire({"bench", "reclaim", "--accel=soft", "--memory=16M", "--side=quire"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(absl::StartsWith(outcome.out, "{\"content_ratio\":")) << outcome.out;
  EXPECT_TRUE(absl::StrContains(outcome.out, "\"mismatched_pages\":0,")) << outcome.out;
  EXPECT_EQ(outcome.err, "");
}

TEST(CliTest, TheDoctorEndsWithAVerdict) {
  const Outcome outcome = Quire({"doctor"});
  EXPECT_TRUE(outcome.status == 0 || outcome.status == 3) << outcome.status;
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(absl::StrContains(outcome.out, outcome.status == 0 ? "\n`quire run` will use" : "\n`quire run` cannot"))
      << outcome.out;
}

TEST(CliTest, TheDoctorsJsonIsAloneOnStandardOutput) {
  for (const char* flag : {"--json", "--json=-"}) {
    const Outcome outcome = Quire({"doctor", flag});
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(nlohmann::json::parse(outcome.out)["runs"], outcome.status == 0);
  }
}

TEST(CliTest, ARunEndsWithASummary) {
  const Outcome outcome = Quire(SoftRun({"--pool=64M"}));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(absl::StrContains(outcome.out, "2 guests of 8 MiB ran in 64 MiB: 0 wrong bytes in ")) << outcome.out;
  EXPECT_FALSE(absl::StrContains(outcome.out, "\x1b"));
}

TEST(CliTest, StrictRefusesGuestsThatMayNotFitAndStartsThoseThatDo) {
  const Outcome refused = Quire(SoftRun({"--memory=64M", "--pool=64M", "--overcommit=strict"}));
  EXPECT_EQ(refused.status, 2);
  EXPECT_TRUE(
      absl::StrContains(refused.err, "--overcommit=strict cannot be honoured: 2 guests of 64 MiB may want 128 "))
      << refused.err;
  const Outcome fits = Quire(SoftRun({"--pool=64M", "--overcommit=strict"}));
  EXPECT_EQ(fits.status, 0) << fits.err;
}

TEST(CliTest, OvercommitSaysWhatItPromises) {
  const Outcome outcome = Quire(SoftRun({"--memory=64M", "--pool=64M"}));
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(absl::StrContains(outcome.out, "need not fit into the pool")) << outcome.out;
}

TEST(CliTest, AReportOnStandardOutputHasItForItself) {
  const Outcome outcome = Quire(SoftRun({"--pool=64M", "--json=-"}));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["guests"].size(), 2u);
  EXPECT_TRUE(absl::StrContains(outcome.err, "2 guests of 8 MiB ran in 64 MiB")) << outcome.err;
}

TEST(CliTest, AReportInAFileLeavesTheSummaryWhereItIs) {
  const std::string path = absl::StrCat(testing::TempDir(), "/cli_test_report_", getpid());
  const Outcome outcome = Quire(SoftRun({"--pool=64M", "--json=" + path}));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(nlohmann::json::parse(Contents(path))["accel"], "soft");
  EXPECT_TRUE(absl::StrContains(outcome.out, "2 guests of 8 MiB ran in 64 MiB")) << outcome.out;
  unlink(path.c_str());
}

// Guests that do not fit, so that there are compressed pages.
TEST(CliTest, AReportsZonesArePrinted) {
  const std::string path = absl::StrCat(testing::TempDir(), "/cli_test_zones_", getpid());
  const Outcome run = Quire({"run", "--accel=soft", "--guests=2", "--memory=24M", "--pool=32M",
                             "--workload=zipf:operations=20000", "--json=" + path});
  EXPECT_EQ(run.status, 0) << run.err;
  const Outcome outcome = Quire({"zones", path});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(absl::StartsWith(outcome.out, "ITEM ")) << outcome.out;
  EXPECT_TRUE(absl::StrContains(outcome.out, "\ncompressed-")) << outcome.out;
  unlink(path.c_str());
}

TEST(CliTest, AnExperimentsPageIsWrittenAndItsVerdictPrinted) {
  const std::string dir = absl::StrCat(testing::TempDir(), "/cli_test_experiment_", getpid());
  mkdir(dir.c_str(), 0700);
  std::ofstream(dir + "/experiment.json") << R"({"form": 1, "name": "small"})" << std::flush;
  EXPECT_TRUE(absl::StrContains(Quire({"report", dir}).err, "has no results yet"));
  std::ofstream(dir + "/results.jsonl") << R"({"form": 1, "run": "a", "repetition": 1, "outcome": "ok"})" << std::endl;
  const Outcome outcome = Quire({"report", dir});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_TRUE(absl::StrContains(outcome.out, "The one run ended well.\n\nThe page: " + dir + "/report.html\n"))
      << outcome.out;
  EXPECT_TRUE(absl::StartsWith(Contents(dir + "/report.html"), "<!DOCTYPE html>"));
  const Outcome aside = Quire({"report", dir, "--out=-"});
  EXPECT_EQ(aside.out, Contents(dir + "/report.html"));
  EXPECT_TRUE(absl::StrContains(aside.err, "The one run ended well.")) << aside.err;
  std::ofstream(dir + "/experiment.json") << R"({"form": 2})" << std::flush;
  EXPECT_TRUE(absl::StrContains(Quire({"report", dir}).err, "has form 2, and form 1 is what this program reads"));
  for (const char* file : {"/experiment.json", "/results.jsonl", "/report.html"}) unlink((dir + file).c_str());
  rmdir(dir.c_str());
}

TEST(CliTest, AReportThatCannotBeWrittenInTheEndIsAnError) {
  const Outcome outcome = Quire(SoftRun({"--pool=64M", "--json=/dev/full"}));
  EXPECT_EQ(outcome.status, 3);
  EXPECT_TRUE(absl::StrContains(outcome.err, "/dev/full (no space left on device)")) << outcome.err;
}

TEST(CliTest, AnInterruptedRunReportsAndThenDiesOfTheSignal) {
  const std::string path = absl::StrCat(testing::TempDir(), "/cli_test_interrupted_", getpid());
  const pid_t child = fork();
  if (child == 0) {
    Redirect(path, STDOUT_FILENO);
    execl("vmm/quire", "quire", "run", "--accel=soft", "--guests=1", "--memory=8M", "--pool=64M", "--seconds=3600",
          nullptr);
    _exit(127);
  }
  // Plain lines are printed once the run is under way.
  while (!absl::StrContains(Contents(path), "guest-0")) usleep(10000);
  kill(child, SIGINT);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT) << status;
  EXPECT_TRUE(absl::StrContains(Contents(path), "1 guest of 8 MiB ran in 64 MiB")) << Contents(path);
  unlink(path.c_str());
}

}  // namespace
}  // namespace quire
