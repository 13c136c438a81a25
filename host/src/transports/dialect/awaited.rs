//! What an agent waits for after each of its frames, as data.
//!
//! The types are those of SDK 1.1.99, misspellings included; a row that only a newer SDK sends has that one's. Where
//! the two differ for the same frame the older one decides, since the newer one matches by `requestId`. Not here: what
//! an answer holds.

use std::borrow::Cow;

use crate::call::CallName;

/// What an agent waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaits {
    /// The type of an answer.
    pub first: Cow<'static, str>,
    /// Types that are taken as well.
    pub also: &'static [&'static str],
    /// Which field holds the type.
    pub by: By,
    /// What of the answer its caller gets.
    pub resolves: Resolves,
    /// The field that callers read first; empty when there is no such one.
    pub field: &'static str,
}

impl Awaits {
    /// A frame of this type, of which the caller gets everything.
    pub fn of(kind: &'static str) -> Self {
        Self {
            first: Cow::Borrowed(kind),
            also: &[],
            by: By::Type,
            resolves: Resolves::Frame,
            field: "",
        }
    }

    /// Whether an answer of this type is taken.
    pub fn accepts(&self, kind: &str) -> bool {
        self.first == kind || self.also.contains(&kind)
    }
}

/// Which field of an answer is compared with the awaited type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `type`.
    Type,
    /// `event`. The newer SDK reads `type` here too.
    Event,
}

/// What of an answer its 1.1.99 caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolves {
    /// All of it.
    Frame,
    /// `data` alone.
    Data,
    /// `data` alone, which must be an array.
    List,
    /// `data` alone: an array of tools, which the newer SDK reads from `data.tools`.
    Tools,
    /// `data` alone: whether the tool was refused or failed, and its text.
    Pair,
    /// `payload` alone.
    Payload,
    /// `payload` alone, which must be an array or null.
    Turns,
    /// `htmlResponse` alone.
    Html,
}

struct Row {
    kind: &'static str,
    action: &'static str,
    types: &'static [&'static str],
    by: By,
    resolves: Resolves,
    field: &'static str,
}

impl Row {
    const fn event(mut self) -> Self {
        self.by = By::Event;
        self
    }

    const fn gives(mut self, resolves: Resolves) -> Self {
        self.resolves = resolves;
        self
    }

    const fn field(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }
}

/// A call and the types of its answer; without any, nothing is awaited.
const fn on(kind: &'static str, action: &'static str, types: &'static [&'static str]) -> Row {
    Row {
        kind,
        action,
        types,
        by: By::Type,
        resolves: Resolves::Frame,
        field: "",
    }
}

/// A page of the browser, whose answers are told apart by `event`.
const fn page(action: &'static str, types: &'static [&'static str]) -> Row {
    on("browserEvent", action, types).event()
}

const fn tools(action: &'static str, types: &'static [&'static str], resolves: Resolves) -> Row {
    on("codebolttools", action, types).gives(resolves)
}

const NOTHING: &[&str] = &[];

/// Any action of the kind.
const ANY: &str = "*";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    on("fsEvent", "createFile", &["createFileResponse"]),
    on("fsEvent", "createFolder", &["createFolderResponse"]),
    on("fsEvent", "readFile", &["readFileResponse"]).field("content"),
    on("fsEvent", "updateFile", &["commandOutput"]),
    on("fsEvent", "deleteFile", &["deleteFileResponse"]),
    on("fsEvent", "deleteFolder", &["deleteFolderResponse"]),
    on("fsEvent", "fileList", &["fileListResponse"]),
    on("fsEvent", "listFiles", &["listFilesResponse"]),
    on("fsEvent", "listCodeDefinitionNames", &["listCodeDefinitionNamesResponse"]),
    on("fsEvent", "listCodeDefinitions", &["listCodeDefinitionsResponse"]),
    on("fsEvent", "searchFiles", &["searchFilesResponse"]),
    on("fsEvent", "writeToFile", &["writeToFileResponse"]),
    on("fsEvent", "grepSearch", &["grepSearchResponse"]),
    on("fsEvent", "grep_search", &["grepSearchResponse"]),
    on("fsEvent", "fuzzySearch", &["fuzzySearchResponse"]),
    on("fsEvent", "fileSearch", &["fileSearchResponse"]),
    on("fsEvent", "file_search", &["fileSearchResponse"]),
    on("fsEvent", "applyDiff", &["editFileAndApplyDiffResponse"]),
    on("fsEvent", "edit_file_with_diff", &["editFileAndApplyDiffResponse"]),
    on("fsEvent", "readManyFiles", &["readManyFilesResponse"]),
    on("fsEvent", "read_many_files", &["readManyFilesResponse"]),
    on("fsEvent", "listDirectory", &["listDirectoryResponse"]),
    on("fsEvent", "list_directory", &["listDirectoryResponse"]),

    on("inference", "", &["llmResponse"]),

    on("executeCommand", "", &["commandFinish", "commandError"]),
    on("executeCommandRunUntilError", "", &["commandError"]),
    on("executeCommandRunUntilInterrupt", "", &["commandError"]),
    on("executeCommandWithStream", "", &["commandFinish", "commandError"]),
    on("sendInterruptToTerminal", "", &["terminalInterrupted"]),

    page("newPage", &["newPageResponse"]),
    page("getUrl", &["getUrlResponse"]).field("url"),
    page("goToPage", &["goToPageResponse"]),
    page("screenshot", &["screenshotResponse"]).gives(Resolves::Payload),
    page("getHTML", &["htmlReceived"]).gives(Resolves::Html),
    page("getMarkdown", &["getMarkdownResponse"]).field("markdown"),
    page("getPDF", NOTHING),
    page("pdfToText", NOTHING),
    page("getContent", &["getContentResponse"]).field("content"),
    page("getSnapShot", &["getSnapShotResponse"]).field("payload"),
    page("getBrowserInfo", &["getBrowserInfoResponse"]).field("payload"),
    page("extractText", &["extractTextResponse"]).field("text"),
    page("close", NOTHING),
    page("scroll", &["scrollResponse"]),
    page("type", &["typeResponse"]),
    page("click", &["clickResponse"]),
    page("enter", &["EnterResponse"]),
    page("search", &["searchResponse"]),

    on("gitEvent", "Init", &["InitResponse"]),
    on("gitEvent", "Clone", &["CloneResponse"]),
    on("gitEvent", "Pull", &["PullResponse"]),
    on("gitEvent", "Push", &["PushResponse"]),
    on("gitEvent", "Status", &["StatusResponse"]).field("data"),
    on("gitEvent", "Add", &["AddResponse"]),
    on("gitEvent", "Commit", &["gitCommitResponse"]),
    on("gitEvent", "Checkout", &["CheckoutResponse"]),
    on("gitEvent", "Branch", &["BranchResponse"]),
    on("gitEvent", "gitBranch", &["gitBranchResponse"]),
    on("gitEvent", "Logs", &["LogsResponse"]).field("data"),
    on("gitEvent", "gitLogs", &["gitLogsResponse"]).field("data"),
    on("gitEvent", "Diff", &["DiffResponse"]).field("data"),

    on("crawlerEvent", "start", NOTHING),
    on("crawlerEvent", "screenshot", NOTHING),
    on("crawlerEvent", "enter", NOTHING),
    on("crawlerEvent", "goToPage", NOTHING),
    on("crawlerEvent", "scroll", NOTHING),
    on("crawlerEvent", "click", &["clickFinished"]).event(),
    on("crawlerEvent", "type", &["typeFinished"]).event(),
    on("crawlerEvent", "crawl", &["crawlResponse"]),

    tools("getEnabledToolBoxes", &["getEnabledToolBoxesResponse"], Resolves::List),
    tools("getLocalToolBoxes", &["getLocalToolBoxesResponse"], Resolves::List),
    tools("getAvailableToolBoxes", &["getAvailableToolBoxesResponse"], Resolves::List),
    tools("searchAvailableToolBoxes", &["searchAvailableToolBoxesResponse"], Resolves::Data),
    tools("listToolsFromToolBoxes", &["listToolsFromToolBoxesResponse"], Resolves::Tools),
    tools("configureToolBox", &["configureToolBoxResponse"], Resolves::Data),
    tools("getTools", &["getToolsResponse"], Resolves::List),
    tools("executeTool", &["executeToolResponse"], Resolves::Pair),
    tools("getMcpTools", &["getMcpToolsResponse"], Resolves::Frame).field("tools"),
    tools("getMcpList", &["getMcpListResponse"], Resolves::Frame),
    tools("getAllMcpTools", &["getAllMcpToolsResponse"], Resolves::Frame).field("tools"),
    tools("getEnabledMcps", &["getEnabledMcpsResponse"], Resolves::Frame),
    tools("configureMcpTool", &["configureMcpToolResponse"], Resolves::Frame),

    on("codeEvent", "getAllFilesMarkdown", &["getAllFilesMarkdownResponse"]).field("markdown"),
    on("codeEvent", "performMatch", &["getgetJsTreeResponse"]).field("payload"),
    on("codeEvent", "getMatcherList", &["getMatcherListTreeResponse"]),
    on("codeEvent", "getMatchDetail", &["matchDetailTreeResponse"]).field("payload"),

    on("settingEvent", "getProjectPath", &["getProjectPathResponse"]).field("projectPath"),
    on("settingEvent", "getRepoMap", &["getRepoMapResponse"]).field("repoMap"),
    on("settingEvent", "getEditorFileStatus", &["getEditorFileStatusResponse"]).field("editorStatus"),
    on("settingEvent", "getProjectSettings", &["getProjectSettingsResponse"]).field("projectSettings"),
    on("runProject", "", NOTHING),

    on("projectStateEvent", "getAppState", &["getAppStateResponse"]).field("state"),
    on("projectStateEvent", "getProjectState", &["getProjectStateResponse"]).field("projectState"),
    on("projectStateEvent", "updateProjectState", &["updateProjectStateResponse"]),
    on("agentStateEvent", "addToAgentState", &["addToAgentStateResponse"]),
    on("agentStateEvent", "getAgentState", &["getAgentStateResponse"]).field("payload"),

    on("memoryEvent", "set", &["memorySetResponse"]),
    on("memoryEvent", "get", &["memoryGetResponse"]).field("value"),
    on("tokenizerEvent", "addToken", &["addTokenResponse"]).field("token"),
    on("tokenizerEvent", "getToken", &["getTokenResponse"]).field("tokens"),
    on("vectordbEvent", "getVector", &["getVectorResponse"]).field("vector"),
    on("vectordbEvent", "addVectorItem", &["addVectorItemResponse"]),
    on("vectordbEvent", "queryVectorItem", &["qeryVectorItemResponse"]),
    on("vectordbEvent", "queryVectorItems", &["qeryVectorItemsResponse"]),

    on("taskEvent", "addTask", &["addTaskResponse"]),
    on("taskEvent", "getTasks", &["getTasksResponse"]),
    on("taskEvent", "updateTask", &["updateTaskResponse"]),
    on("taskEvent", "createTask", &["addTaskResponse"]),
    on("taskEvent", "deleteTask", &["deleteTaskResponse"]),
    on("taskEvent", "getTaskList", &["getTasksResponse"]),
    on("taskEvent", "getTaskDetail", &["getTaskResponse"]),
    on("taskEvent", "startTask", &["startTaskWithAgentResponse"]),
    on("debugEvent", "addLog", &["debugEventResponse"]),
    on("debugEvent", "openDebugBrowser", &["openDebugBrowserResponse"]),
    on("chatSummaryEvent", "summarizeAll", &["getSummarizeAllResponse"]).gives(Resolves::Turns),
    on("chatSummaryEvent", "summarize", &["getSummarizeResponse"]).gives(Resolves::Turns),
    on("getChatHistory", "", &["getChatHistoryResponse"]),

    on("agentEvent", "findAgent", &["findAgentByTaskResponse"]).field("agents"),
    on("agentEvent", "startAgent", &["taskCompletionResponse"]),
    on("agentEvent", "listAgents", &["listAgentsResponse"]).field("agents"),
    on("agentEvent", "agentsDetail", &["listAgentsResponse"]).field("agents"),

    on("sendMessage", "", NOTHING),
    on("waitforReply", "", &["waitFormessageResponse"]),
    on("confirmationRequest", "", &["confirmationResponse", "feedbackResponse"]),
    on("processStarted", "", NOTHING),
    on("processStoped", "", NOTHING),
    on("processFinished", "", NOTHING),
    on("notificationEvent", "", NOTHING),

    on("agentnotify", ANY, NOTHING),
    on("browsernotify", ANY, NOTHING),
    on("chatnotify", ANY, NOTHING),
    on("codeutilsnotify", ANY, NOTHING),
    on("crawlernotify", ANY, NOTHING),
    on("dbmemorynotify", ANY, NOTHING),
    on("fsnotify", ANY, NOTHING),
    on("gitnotify", ANY, NOTHING),
    on("historynotify", ANY, NOTHING),
    on("llmnotify", ANY, NOTHING),
    on("mcpnotify", ANY, NOTHING),
    on("searchnotify", ANY, NOTHING),
    on("systemnotify", ANY, NOTHING),
    on("tasknotify", ANY, NOTHING),
    on("terminalnotify", ANY, NOTHING),
    on("todonotify", ANY, NOTHING),
];

/// What an agent waits for that asked for `name`, and spelled it as `kind` and `action`; none when for nothing.
///
/// The spelling counts: `fsEvent:file_search` awaits another type than `fsEvent:fuzzySearch`, which is the same call.
pub fn awaited(name: &CallName, kind: &str, action: Option<&str>) -> Option<Awaits> {
    let row = |action: &str| {
        let same =
            |row: &&Row| row.kind == &*name.kind && (row.action == ANY || row.action.eq_ignore_ascii_case(action));
        TABLE.iter().find(same)
    };
    // A dotted type has no action of its own in the frame.
    let spelled = action.filter(|_| !kind.contains('.'));
    // Kinds without actions ignore one.
    let found = spelled.and_then(row).or_else(|| row(name.action())).or_else(|| row(""));
    let Some(row) = found else {
        return Some(Awaits {
            first: Cow::Owned(unlisted(kind, action)),
            also: &[],
            by: By::Type,
            resolves: Resolves::Frame,
            field: "",
        });
    };
    let (first, also) = row.types.split_first()?;
    Some(Awaits {
        first: Cow::Borrowed(first),
        also,
        by: row.by,
        resolves: row.resolves,
        field: row.field,
    })
}

/// The type of an answer that no row names. The newer SDK has a rule for each family of dotted types.
fn unlisted(kind: &str, action: Option<&str>) -> String {
    match kind.split_once('.') {
        None => format!("{}Response", action.unwrap_or(kind)),
        Some(("environment", rest)) => format!("{rest}Response"),
        Some((family @ ("dynamicPanel" | "reviewMergeRequest"), rest)) => {
            let mut letters = rest.chars();
            let first = letters.next().map(|letter| letter.to_ascii_uppercase());
            let rest: String = first.into_iter().chain(letters).collect();
            format!("{family}{rest}Response")
        }
        Some(("kvStore" | "persistentMemory", _)) => kind.to_owned(),
        Some(_) => format!("{kind}Response"),
    }
}

#[cfg(test)]
mod tests;
