// Every text of the page, in one table: English, Chinese, Japanese.
const LANGUAGES = { en: "English", zh: "中文", ja: "日本語" };
const COLUMNS = Object.keys(LANGUAGES);
const TABLE = {
  skip: ["Skip to the work", "跳到编辑区", "作業へ移動"],
  new: ["animedrag studio, begin anew", "animedrag 工作室，重新开始", "animedragスタジオ、最初から"],
  model: ["Model", "模型", "モデル"],
  language: ["Language", "语言", "言語"],
  theme: ["Light or dark", "浅色或深色", "明るい・暗い"],
  title: ["Move a face by dragging it.", "拖一拖，表情就变。", "ドラッグで、顔が動く。"],
  lead: [
    "Bring a drawing, put a red dot on an eye and a blue one where it should be. Your own lines move.",
    "放入一张画，在眼睛上点红点，在想去的位置点蓝点，你自己的线条就会移动。",
    "絵を入れて、目に赤い点、動かしたい先に青い点を置くと、あなたの線がそのまま動きます。",
  ],
  drop: ["Drop a drawing here, or paste it", "把画拖到这里，或直接粘贴", "ここに絵をドロップ、または貼り付け"],
  pick: ["Choose a picture", "选择图片", "画像を選ぶ"],
  formats: ["PNG, JPEG or WebP. It goes to this studio's machine only.", "PNG、JPEG 或 WebP。只会传到运行本工作室的机器。", "PNG・JPEG・WebP。送り先はこのスタジオの機械だけです。"],
  continue: ["Go on where you were", "继续上次的编辑", "前回の続き"],
  samples: ["Or try one of these now", "或者马上试试这些", "まずはこちらで試す"],
  sample: ["Face {n}", "人脸 {n}", "顔 {n}"],
  seed: ["Face number", "人脸编号", "顔の番号"],
  more: ["More faces", "更多人脸", "ほかの顔"],
  faces_one: ["Is this the face?", "是这张脸吗？", "この顔でよいですか？"],
  faces_many: ["Which face?", "选哪张脸？", "どの顔にしますか？"],
  faces_none: ["No face was found. Where is it?", "没有找到人脸，它在哪里？", "顔が見つかりません。どこですか？"],
  faces_lead: ["Drag the frame or use the sliders: the eyes a little below its middle.", "拖动方框或使用滑块，让眼睛略低于中线。", "枠を動かすか、スライダーで。目は中央より少し下に。"],
  face_number: ["Face {n}", "第 {n} 张脸", "{n} 番目の顔"],
  box_x: ["Across", "左右", "左右"],
  box_y: ["Down", "上下", "上下"],
  box_size: ["Size", "大小", "大きさ"],
  box_roll: ["Lean", "倾斜", "傾き"],
  back: ["Back", "返回", "戻る"],
  take_face: ["Take this face", "就用这张脸", "この顔にする"],
  looking: ["Looking for faces …", "正在寻找人脸 …", "顔を探しています …"],
  finding: ["Looking for your drawing in the model", "正在模型中寻找你的画", "モデルの中に絵を探しています"],
  yours: ["Your drawing", "你的画", "あなたの絵"],
  models: ["What the model draws", "模型画出的", "モデルの描く絵"],
  phase_project: ["Finding a likeness, {p} %", "寻找相似的脸，{p}%", "似た顔を探索 {p}%"],
  phase_tune: ["Learning its lines, {p} %", "学习线条，{p}%", "線を学習 {p}%"],
  cancel: ["Cancel", "取消", "やめる"],
  work: ["Edit", "编辑", "編集"],
  tools: ["Tools", "工具", "道具"],
  point: ["Point", "点", "点"],
  keep: ["Keep", "保持", "固定"],
  erase: ["Erase", "擦除", "消す"],
  hand: ["View", "视图", "視点"],
  tool_point: ["Point: put and move points (V)", "点：放置和移动（V）", "点：置く・動かす（V）"],
  tool_keep: ["Keep: paint what must stay (B)", "保持：涂抹不许变的部分（B）", "固定：動かさない所を塗る（B）"],
  tool_erase: ["Erase: free what was painted (E)", "擦除：解除保持（E）", "消す：固定を外す（E）"],
  tool_hand: ["View: move the view (H)", "视图：移动画面（H）", "視点：表示を動かす（H）"],
  zoom_in: ["Closer (+)", "放大（+）", "拡大（+）"],
  zoom_out: ["Farther (-)", "缩小（-）", "縮小（-）"],
  zoom_fit: ["Fit (0)", "适合窗口（0）", "全体（0）"],
  canvas: ["Face. N: new point, arrows: move, Enter: set, Tab: leave", "人脸。N：新点，方向键：移动，Enter：确定", "顔。N：新しい点、矢印：移動、Enter：決定"],
  hint_first: ["Click what should move", "点击要移动的地方", "動かしたい所をクリック"],
  hint_target: ["Now click where it should go", "再点击要去的地方", "次に、行き先をクリック"],
  hint_ready: ["Press Start", "按“开始”", "「開始」を押す"],
  hint_keys: ["Arrows move, Enter sets, Escape cancels", "方向键移动，Enter 确定，Esc 取消", "矢印で移動、Enterで決定、Escで取消"],
  compare: ["Compare", "对比", "比べる"],
  compare_at: ["Before on the left, after on the right", "左边是之前，右边是之后", "左が前、右が後"],
  view: ["What is shown", "显示内容", "表示"],
  face: ["Face", "脸", "顔"],
  picture: ["Whole picture", "整张画", "絵全体"],
  points: ["Points", "点", "点"],
  mirror: ["In pairs", "左右成对", "左右対で"],
  points_empty: ["None yet. Click the face.", "还没有。请点击人脸。", "まだありません。顔をクリック。"],
  left: ["{d} px to go", "还差 {d} 像素", "残り {d} px"],
  there: ["arrived", "已到达", "到着"],
  sure: ["recognised: {c} %", "识别度 {c}%", "認識 {c}%"],
  choose_point: ["Point {n}", "第 {n} 个点", "点 {n}"],
  remove: ["Remove point {n}", "删除第 {n} 个点", "点 {n} を削除"],
  mask: ["What must stay", "不许变的部分", "動かさない所"],
  mask_show: ["Show", "显示", "表示"],
  brush: ["Brush", "笔刷", "ブラシ"],
  mask_all: ["Keep all", "全部保持", "すべて固定"],
  mask_none: ["Keep nothing", "全部放开", "固定なし"],
  home: ["Take it home", "保存带走", "持ち帰る"],
  name: ["Name", "名称", "名前"],
  save: ["Save", "保存", "保存"],
  saving: ["Saving …", "正在保存 …", "保存中 …"],
  saved: ["Saved as {r}", "已保存为 {r}", "{r} として保存しました"],
  use_recipe: ["Use a recipe or session file", "使用配方或会话文件", "レシピ・作業ファイルを使う"],
  pack: ["Session as a file", "把会话存为文件", "作業をファイルに"],
  carry: ["Same on another picture", "用到另一张画", "別の絵にも同じことを"],
  carried: ["Your {n} points come along to the next face.", "你的 {n} 个点会用到下一张脸上。", "{n} 個の点を次の顔でも使います。"],
  drop_carried: ["Leave them", "不用了", "使わない"],
  open_session: ["Open a session", "打开会话", "作業を開く"],
  bring_model: ["Bring a model (.pkl)", "导入模型（.pkl）", "モデルを入れる（.pkl）"],
  bringing_model: ["Reading the model …", "正在读取模型 …", "モデルを読み込み中 …"],
  bringing_session: ["Reading the session …", "正在读取会话 …", "作業を読み込み中 …"],
  too_large: ["{name} is larger than {mb} MB.", "{name} 超过 {mb} MB。", "{name} は {mb} MB を超えています。"],
  history: ["What was done", "操作记录", "したこと"],
  did_start: ["Beginning", "开始", "はじめ"],
  did_add: ["Point put", "放置点", "点を置いた"],
  did_move: ["Point {n} moved", "移动点 {n}", "点 {n} を動かした"],
  did_remove: ["Point removed", "删除点", "点を消した"],
  did_mask: ["Mask painted", "涂抹保持区", "固定を塗った"],
  did_drag: ["Dragged", "拖动", "ドラッグ"],
  did_seek: ["Went back", "回到旧图", "前の絵に戻った"],
  "picture.png": ["Picture", "整张画", "絵全体"],
  "face.png": ["Face", "脸", "顔"],
  "before-after.png": ["Before, after", "前后对比", "前と後"],
  "film.mp4": ["Film (mp4)", "视频 mp4", "動画 mp4"],
  "film.gif": ["Film (gif)", "动图 gif", "動画 gif"],
  "film.webp": ["Film (webp)", "动图 webp", "動画 webp"],
  "recipe.json": ["Recipe", "配方", "レシピ"],
  undo: ["Undo (Ctrl+Z)", "撤销（Ctrl+Z）", "元に戻す（Ctrl+Z）"],
  redo: ["Redo (Ctrl+Shift+Z)", "重做（Ctrl+Shift+Z）", "やり直す（Ctrl+Shift+Z）"],
  start: ["Start", "开始", "開始"],
  stop: ["Stop", "停止", "停止"],
  step: ["One step (.)", "走一步（.）", "一歩（.）"],
  timeline: ["Timeline", "时间轴", "タイムライン"],
  frame: ["Picture {i} of {n}", "第 {i} / {n} 张", "{n} 枚中 {i} 枚目"],
  machine_cpu: ["CPU, {n} cores", "CPU，{n} 核", "CPU {n} コア"],
  machine_cuda: ["GPU {g}", "GPU {g}", "GPU {g}"],
  speed: ["about {s} steps a second", "约每秒 {s} 步", "毎秒およそ {s} 歩"],
  lost: ["The studio is not reachable; trying again …", "连接已断开，正在重试 …", "接続が切れました。再接続中 …"],
  again: ["Connected again. Nothing is lost.", "已重新连接，什么都没有丢。", "再接続しました。失われたものはありません。"],
  gone: ["That session does not exist any more; this is a new one.", "那个会话已不存在，这是新的。", "そのセッションはもうありません。新しく始めます。"],
  started: ["Dragging", "正在拖动", "ドラッグ中"],
  stopped: ["Stopped", "已停止", "停止しました"],
};

let column = 0;

export function t(key, values = {}) {
  const row = TABLE[key];
  const text = row ? row[column] : key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function language() { return COLUMNS[column]; }

export function chooseLanguage(code) {
  const wanted = code ?? localStorage.getItem("language") ?? navigator.language.slice(0, 2);
  column = Math.max(0, COLUMNS.indexOf(wanted));
  if (code) localStorage.setItem("language", code);
  document.documentElement.lang = COLUMNS[column];
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
    if (element.matches("button")) element.title = t(element.dataset.tLabel);
  }
}

export function fillLanguages(select) {
  select.replaceChildren(...COLUMNS.map((code) => {
    const option = new Option(LANGUAGES[code], code);
    option.lang = code;
    return option;
  }));
  select.value = language();
}
